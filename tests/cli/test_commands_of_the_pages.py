"""Every command that README and docs show is run here as it is printed.

Left out are, with the reason, those that need what no test has. Those that would train for long
are run with ``--dry-run``, and those that serve until they are interrupted are interrupted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

pytest.importorskip("timm", reason="timm is not installed")
pytest.importorskip("open_clip", reason="open_clip is not installed")

from florence.config.storage import S3Settings
from florence_jobs.local import Records
from florencectl.main import app
from tests.cli import pages_world
from tests.cli.cluster_server import ServedCluster, served_cluster
from tests.cli.test_documented_commands import ROOT, SHORTENED, pages, shown_in
from tests.cli.test_submit import job, write
from tests.gang import free_port

pytestmark = pytest.mark.slow

DRY = {
    "florencectl submit pretrain --local --name cats --preset coswin-t --data shards/clean "
    "--batch-size 256 --steps 5000 --set optimizer.lr=3e-4",
    "florencectl submit finetune --local --from MODEL --mode head --data shards/pets --epochs 10",
    "florencectl submit finetune --name probe --mode linearProbe --from $M --resolution 64 "
    "--data builtin:digits/train --validation builtin:digits/test --compare-with-scratch --local",
    "florencectl submit evaluate --local --model MODEL "
    "--set 'zeroShot=[{name: digits, data: builtin:digits/test, prompts: digits}]'",
    "florencectl submit -f jobs/samples/digits.yaml --local",
    "florencectl submit -f jobs/samples/digits-finetune.yaml --local",
    "florencectl submit -f jobs/samples/digits-vision-language.yaml --local",
    "florencectl sweep -f job.yaml --local --set seed=0..2",
    "florencectl sweep -f job.yaml --local --set mixed.optimizer.lr=1e-4,3e-4 --set seed=0..2",
}
"""What would train: CI runs the samples whole or in short, and other tests the rest."""

SERVING = {
    "florencectl ui",
    "florencectl serve MODEL",
    "florencectl serve s3://florence/runs/default/digits/mixed --endpoint http://minio:9000 "
    "--port 8080",
}

ONE_AFTER_ANOTHER = [
    "florencectl submit -f jobs/samples/digits.yaml --local --detach",
    "florencectl logs digits --local -f",
    "florencectl why digits --local",
    "florencectl stop digits --local",
    "florencectl resume digits --local",
    "florencectl wait digits --local --for finished --timeout 2h",
]
"""Of the page about training: they are about one job."""

EXTENDING = "florencectl submit -f job.yaml --local --extend"
"""Of a job that has run, with more steps."""

ELSEWHERE = {"florencectl serve models:/MODEL_ID": "test_serve.py, whose store has a model"}

PAGES_OF_OTHER_TESTS = {
    "detection.md": "test_detection_commands.py",
    "registry.md": "test_models_commands.py",
    "pipelines.md": "test_pipeline_commands.py",
    "storage.md": "storage/test_storage_commands.py",
    "video.md": "test_video_page.py",
}
"""Pages whose commands are about one store or server each, and run one after another."""

PAGES_HERE = [page for page in pages() if page.name not in PAGES_OF_OTHER_TESTS]

WATCHING = {"florencectl events JOB -n NAMESPACE -w"}
"""What goes on until it is interrupted: run without its ``-w``."""

ON_A_CLUSTER = ("-n ", "doctor", "top -A")
MAY_FAIL = {"doctor": (0, 1)}
"""What the stand-in of a cluster lacks is what it is to find."""


def words_of(line: str) -> list[str]:
    """The words of a command as a shell would make them, with what a page's names stand for."""
    for name, meant in pages_world.STANDING_FOR.items():
        line = line.replace(name, meant)
    words = shlex.split(line.partition("florencectl ")[2])
    return [os.path.expanduser(os.path.expandvars(word)) for word in words]


def plainly(lines: list[str]) -> list[str]:
    special = {*DRY, *SERVING, *ONE_AFTER_ANOTHER, *ELSEWHERE, EXTENDING}
    return [line for line in map(normal, lines) if line not in special and SHORTENED not in line]


def normal(line: str) -> str:
    return " ".join(line.split()).replace(".venv/bin/", "")


def test_what_is_not_simply_run_is_on_a_page() -> None:
    """A line that is gone, or has changed, has no business in these lists."""
    every = {normal(line) for page in pages() for line in shown_in(page)}
    assert {*DRY, *SERVING, *ONE_AFTER_ANOTHER, *ELSEWHERE, *WATCHING, EXTENDING} <= every


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory, s3_settings: S3Settings) -> Path:
    """A folder with what the pages name, and the buckets that they name beside it."""
    folder = tmp_path_factory.mktemp("pages")
    pages_world.lay_out(folder)
    pages_world.fill_buckets(s3_settings, folder)
    return folder


@pytest.fixture
def inside(
    tmp_path: Path, laid_out: Path, s3_settings: S3Settings, monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """In such a folder, of which nothing was used before; the environment of the commands."""
    folder = tmp_path / "world"
    shutil.copytree(laid_out, folder)
    environment = {
        "HOME": str(tmp_path / "user"),
        "FLORENCE_HOME": str(tmp_path / "home"),
        "FLORENCE_S3_ENDPOINT": str(s3_settings.endpoint),
        "AWS_ENDPOINT_URL": str(s3_settings.endpoint),
        "OMP_NUM_THREADS": "1",
        "M": str(folder / "MODEL"),
    }
    monkeypatch.chdir(folder)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pages_world.fill_home(tmp_path / "home", tmp_path / "user")
    return environment


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def run(line: str, cluster: ServedCluster, s3: S3Settings) -> Result:
    """Run one command in this process, on the cluster if it is about one."""
    env: dict[str, str | None] = {}
    if any(mark in line for mark in ON_A_CLUSTER) and "--local" not in line:
        phase = "Running" if "suspend" in line else "Succeeded"
        pages_world.fill_cluster(cluster, phase, s3)
        env = {"KUBECONFIG": str(cluster.kubeconfig)}
    words = words_of(line)
    if normal(line) in WATCHING:
        words.remove("-w")
    return CliRunner().invoke(app, words, env=env)


@pytest.mark.parametrize("page", PAGES_HERE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run(
    page: Path, inside: dict[str, str], cluster: ServedCluster, s3_settings: S3Settings
) -> None:
    for line in plainly(shown_in(page)):
        if "|" in line:
            continue
        result = run(line, cluster, s3_settings)
        allowed = next((codes for name, codes in MAY_FAIL.items() if name in line), (0,))
        assert result.exit_code in allowed, (line, result.output)


def test_a_command_that_reads_a_pipe_runs(inside: dict[str, str], tmp_path: Path) -> None:
    piped = [line for page in PAGES_HERE for line in plainly(shown_in(page)) if "|" in line]
    assert piped
    program = tmp_path / "florencectl"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m florencectl.main "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for line in piped:
        done = subprocess.run(
            ["bash", "-c", line], env={**os.environ, "PATH": path}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "cat" in done.stdout


@pytest.mark.parametrize("line", sorted(DRY))
def test_what_would_train_is_a_job(line: str, inside: dict[str, str]) -> None:
    result = CliRunner().invoke(app, [*words_of(line), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "kind: FlorenceJob" in result.stdout


@pytest.mark.parametrize("line", sorted(SERVING))
def test_what_serves_answers_until_it_is_interrupted(
    line: str, inside: dict[str, str], tmp_path: Path
) -> None:
    if "ui" in line.split():
        import mlflow

        home = Path(inside["FLORENCE_HOME"])
        mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/mlflow.db").search_experiments()
    words = words_of(line)
    if "--port" in words:
        del words[words.index("--port") :]
    with (tmp_path / "said").open("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "florencectl.main", *words, "--port", str(free_port())],
            stdout=said,
            stderr=said,
            stdin=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 300
            while "on http://127.0.0.1:" not in (told := (tmp_path / "said").read_text()):
                assert process.poll() is None, told
                assert time.monotonic() < deadline, told
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0, (tmp_path / "said").read_text()
        finally:
            process.kill()
            process.wait()


def test_the_commands_about_one_job_run_one_after_another(inside: dict[str, str]) -> None:
    submit, logs, why, stop, resume, wait = ONE_AFTER_ANOTHER
    assert run_to_its_end(start(submit)) == 0
    log = Path(inside["FLORENCE_HOME"]) / "jobs/default/digits/mixed/a1/log"
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    following = start(logs)
    try:
        for line in (why, stop):
            assert run_to_its_end(start(line)) == 0
        # It follows until the job is over, and the job was stopped.
        assert run_to_its_end(following) == 0
        resumed = start(resume)
        assert run_to_its_end(start(wait)) == 0
        assert run_to_its_end(resumed) == 0
    finally:
        following.kill()


def test_a_finished_job_is_trained_longer(inside: dict[str, str]) -> None:
    document = job(steps=2, checkpoints={"everySteps": 2})
    del document["spec"]["stages"][1]
    for steps, line in ((2, EXTENDING.replace(" --extend", "")), (4, EXTENDING)):
        document["spec"]["stages"][0]["pretrain"]["steps"] = steps
        write(Path("job.yaml"), document)
        assert run_to_its_end(start(line)) == 0
        known = Records(Path(inside["FLORENCE_HOME"])).load("default", "small")
        assert known is not None
        assert known.status is not None
        progress = known.status.stages[0].progress
        assert progress is not None
        assert progress.step == steps


def start(line: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "florencectl.main", *words_of(line)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_to_its_end(process: subprocess.Popen[str]) -> int:
    told, _ = process.communicate(timeout=300)
    print(told)
    return process.returncode
