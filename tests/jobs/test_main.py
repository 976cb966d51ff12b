"""A stage's process ends with the code that says who has to act, and one line that says why."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from florence.errors import (
    ConfigurationError,
    DataError,
    DivergedError,
    LostPeersError,
    MissingExtraError,
    NoSpaceError,
    StoppedError,
    TransientError,
)
from florence_jobs import main as program
from florence_jobs.log_tail import LOST_PEERS

PLAN: dict[str, Any] = {
    "job": "j",
    "namespace": "n",
    "uid": "u",
    "stage": "s",
    "attempt": 1,
    "kind": "pretrain",
    "config": {"data": "/nowhere", "batchSize": 1, "steps": 1},
    "model": {"preset": "coswin-nano"},
    "output": "/nowhere",
}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    root.setLevel(level)
    root.handlers[:] = handlers


def run_with(tmp_path: Path, plan: Any) -> int:
    path = tmp_path / "stage.json"
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return program.main([str(path)])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("spec.x: wrong"), 2),
        (DataError("/data: gone"), 3),
        (DivergedError("step 7"), 4),
        (TransientError("s3://b: no answer"), 75),
        (StoppedError("after step 3"), 143),
        (LostPeersError("during a collective: Timed out waiting 600000ms"), 75),
        (OSError(28, "No space left on device"), 2),
        (NoSpaceError("/runs/x cannot be written: free space there"), 2),
        (MissingExtraError("deepspeed", "deepspeed"), 2),
        (ConnectionResetError(104, "Connection reset by peer"), 75),
        (PermissionError(13, "Permission denied", "/etc/templates.txt"), 1),
        (OSError("libcudnn.so.9: cannot open shared object file"), 1),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp, invalid usage: Duplicate GPU"), 1),
        (RuntimeError("the parser lost its Connection"), 1),
        (RuntimeError("shapes do not match"), 1),
        (ValueError("bug"), 1),
    ],
)
def test_every_failure_has_its_code_and_its_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(program, "run", fail)
    assert run_with(tmp_path, PLAN) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "] ERROR " in line]
    assert str(error).splitlines()[0] in lines[-1]
    assert (f"ERROR {LOST_PEERS}" in lines[-1]) == isinstance(error, LostPeersError)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ("not json", "Invalid JSON"),
        ({**PLAN, "attempt": 0}, "attempt: "),
        ({**PLAN, "schemaVersion": 9}, "schemaVersion: "),
        ({**PLAN, "model": {"preset": "x"}}, "unknown preset 'x'"),
    ],
)
def test_a_broken_plan_is_named_by_its_field(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], plan: Any, words: str
) -> None:
    assert run_with(tmp_path, plan) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "stage.json" in err
    assert "Traceback" not in err


def test_a_missing_plan_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(tmp_path / "nothing.json")]) == 2
    assert "the plan cannot be read" in capsys.readouterr().err


def test_a_signal_asks_the_stage_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(plan: Any, stop: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        raise StoppedError("after step 1")

    monkeypatch.setattr(program, "run", run)
    assert run_with(tmp_path, PLAN) == 143


def test_a_failed_stage_leaves_its_reason_in_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    store = f"sqlite:///{tmp_path}/mlflow.db"
    # A new database is made here, which takes seconds: a failed stage waits for ten of them only.
    client = mlflow.MlflowClient(tracking_uri=store)
    client.search_experiments()
    code = run_with(
        tmp_path,
        PLAN
        | {"output": str(tmp_path / "stage"), "tracking": {"mlflowUri": store, "experiment": "e"}},
    )
    assert code == 3
    experiment = client.get_experiment_by_name("e").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment])}
    assert sorted(runs) == ["j", "j/s"]
    for run in runs.values():
        assert run.info.status == "FAILED"
        assert run.info.end_time >= run.info.start_time
        assert "attempt 1: " in run.data.tags["mlflow.note.content"]
        assert "/nowhere" in run.data.tags["mlflow.note.content"]
    assert runs["j/s"].data.params["stage.batchSize"] == "1"
