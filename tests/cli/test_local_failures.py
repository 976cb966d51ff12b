"""What a local run says of failures: once, with the remedy, and tried again only where it helps."""

from __future__ import annotations

import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from florence.errors import ConfigurationError, DataError, TransientError
from florence_operator.api import FlorenceJob, JobStatus, StageStatus, State
from florencectl.preflight import check_local
from tests.cli.test_local_owner import Run, run, until
from tests.cli.test_submit import command, finished, job, write

__all__ = ["run"]  # the fixture

CLOSED = "http://127.0.0.1:9"
"""Port 9 of this machine refuses connections."""


def stored(endpoint: str, **changes: Any) -> FlorenceJob:
    document = job(**changes)
    document["spec"]["artifacts"] = {"endpoint": endpoint, "uri": "s3://runs/here"}
    return FlorenceJob.model_validate(document)


@contextmanager
def refusing_server() -> Iterator[str]:
    """An S3 server that knows no such user."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = b"<Error><Code>InvalidAccessKeyId</Code><Message>no</Message></Error>"
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def test_an_endpoint_where_nobody_answers_is_told_before_anything_starts() -> None:
    with pytest.raises(TransientError, match=r"did not answer .* the endpoint is right"):
        check_local(stored(CLOSED), artifacts="/unused", seconds=60)


def test_wrong_credentials_are_told_before_anything_starts() -> None:
    with (
        refusing_server() as endpoint,
        pytest.raises(ConfigurationError, match="check AWS_ACCESS_KEY_ID"),
    ):
        check_local(stored(endpoint), artifacts="/unused", seconds=60)


def test_what_is_done_is_not_looked_at(tmp_path: Path) -> None:
    one = FlorenceJob.model_validate(job(data=str(tmp_path / "gone")))
    with pytest.raises(DataError, match="gone"):
        check_local(one, artifacts=str(tmp_path))
    done = StageStatus(name=one.spec.stages[0].name, state=State.SUCCEEDED)
    finished_one = one.model_copy(update={"status": JobStatus(stages=(done,))})
    check_local(finished_one, artifacts=str(tmp_path))


@pytest.mark.slow
def test_the_command_ends_with_the_line_and_no_attempt(tmp_path: Path) -> None:
    document = job()
    document["spec"]["artifacts"] = {"endpoint": CLOSED, "uri": "s3://runs/here"}
    path = write(tmp_path / "job.yaml", document)
    code, _, err = finished(command(tmp_path / "home", "submit", "-f", path, "--local"))
    assert (code, "did not answer" in err) == (75, True), err
    assert "starting" not in err


@pytest.mark.slow
def test_a_full_disk_ends_the_job_once(run: Run) -> None:
    """No file may grow beyond 4 MB: the checkpoints of this model are larger."""
    run.write(checkpoints={"everySteps": 1})
    limited = (
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    arguments = ["-m", "florencectl.main", "submit", "-f", str(run.file), "--local"]
    result = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        env={**os.environ, "FLORENCE_HOME": str(run.home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2, result.stderr
    assert len(run.attempts) == 1
    assert "free space there" in result.stderr
    why = " ".join(run.cli("why", "small")[1].split())
    assert "free space there" in why


@pytest.mark.slow
def test_sizes_that_no_machine_has_end_the_job_once_with_what_they_need(run: Run) -> None:
    run.write(resolution=1_000_000)
    code, _, err = finished(run.submit())
    assert code == 2, err
    assert len(run.attempts) == 1
    assert "Out of memory: 8 samples a rank at resolution 1000000 need about " in err
    assert "choose a smaller batchSize, resolution or model.preset" in err


@pytest.mark.slow
def test_settings_that_do_not_fit_are_told_with_others_that_would(run: Run) -> None:
    """The memory that a process may have is limited for real."""
    run.write(resolution=224, batchSize=4096)
    limit = 6 << 30
    limited = (
        f"import os, resource, sys; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    arguments = ["-m", "florencectl.main", "submit", "-f", str(run.file), "--local"]
    result = subprocess.run(
        [sys.executable, "-c", limited, *arguments, "--processes", "1"],
        env={**os.environ, "FLORENCE_HOME": str(run.home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 2, result.stderr
    assert len(run.attempts) == 1
    assert "Out of memory: 4096 samples a rank at resolution 224 need about " in result.stderr
    assert "gradientCacheChunks: " in result.stderr


@pytest.mark.slow
def test_checkpoints_that_cannot_be_used_are_told_with_the_step_it_goes_on_from(run: Run) -> None:
    process = run.submit()
    until(lambda: (run.status["stages"][0].get("progress") or {}).get("checkpointStep", 0) >= 6
          if run.status.get("stages") else False, process)  # fmt: skip
    process.terminate()
    assert finished(process)[0] == 143
    stage = run.home / "artifacts/default/small/mixed"
    commits = sorted((stage / "commits").iterdir())
    newest = json.loads(commits[-1].read_text())
    shard = next((stage / newest["prefix"]).glob("*.safetensors"))
    body = bytearray(shard.read_bytes())
    body[-1] ^= 1
    shard.write_bytes(body)
    process = run.submit()
    until(lambda: run.trains(2), process)
    process.terminate()
    err = finished(process)[2]
    assert f"mixed: skipped the checkpoint of step {newest['step']}: " in err
    restored = run.attempts[1]["restoredStep"]
    assert 0 < restored < newest["step"]
    assert f"; it goes on from step {restored}\n" in err


@pytest.mark.slow
def test_ctrl_c_in_an_evaluation_says_that_nothing_is_kept(run: Run) -> None:
    document = job(steps=2)
    document["spec"]["stages"][1]["evaluate"] |= {"batchSize": 1, "workers": 0}
    write(run.file, document)
    process = run.submit()
    until(lambda: len(run.attempts) == 2 and run.status["stages"][1].get("progress"), process)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code == 130, err
    assert "check: stopping now: it keeps nothing and starts over next time" in err
    assert "check: stopped after " in err
    assert "nothing is kept of it" in err
    assert "after a checkpoint" not in err
    assert run.processes == []


@pytest.mark.slow
def test_the_runs_in_mlflow_of_a_job_whose_tracking_rank_is_killed_have_failed(run: Run) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    document = job(steps=100_000, checkpoints={"everySteps": 2})
    document["spec"]["runPolicy"] = {"retries": {"infrastructure": 0}}
    write(run.file, document)
    process = run.submit()
    until(run.trains, process)
    run.launcher_and_ranks()[1][0].kill()
    code, _, err = finished(process)
    assert code == 137, err
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.home}/mlflow.db")
    (experiment,) = client.search_experiments()
    runs = client.search_runs([experiment.experiment_id])
    assert {(one.info.run_name, one.info.status) for one in runs} == {
        ("small/mixed", "FAILED"),
        ("small", "FAILED"),
    }
    assert all("rank 0 was killed" in one.data.tags["mlflow.note.content"] for one in runs)
