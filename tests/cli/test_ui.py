"""``florencectl ui``: what it refuses, and that it serves this machine's store."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from florence_jobs.local import Records
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget
from florencectl import abandoned_runs
from florencectl.commands import ui
from florencectl.local_server import HOST, answer, is_up
from florencectl.main import app
from tests.gang import free_port

RUNNER = CliRunner()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    return tmp_path


def test_without_runs_it_says_how_to_make_one(home: Path) -> None:
    result = RUNNER.invoke(app, ["ui"])
    assert result.exit_code == 2
    assert f"{home}/mlflow.db: no runs yet" in result.stderr
    assert "submit" in result.stderr


def test_a_taken_port_is_refused(home: Path) -> None:
    (home / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        result = RUNNER.invoke(app, ["ui", "--port", str(port)])
    assert result.exit_code == 2
    assert f"port {port} of 127.0.0.1 is taken" in result.stderr


def test_it_serves_the_store_to_this_machine_only(home: Path) -> None:
    command = ui.server_command(home / "mlflow.db", 5001)
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--backend-store-uri"] == f"sqlite:///{home}/mlflow.db"


def test_a_browser_needs_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", open(os.devnull))  # noqa: SIM115
    monkeypatch.setenv("DISPLAY", ":0")
    assert not ui.has_screen()


class Program:
    """``florencectl ui`` as a process, and everything that it says."""

    def __init__(self, folder: Path, port: int) -> None:
        self.output = folder / "output"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "florencectl.main", "ui", "--port", str(port)],
                stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=folder,
            )  # fmt: skip

    def lines(self) -> list[str]:
        return self.output.read_text().splitlines()

    def says(self, text: str) -> str:
        """The line with a text, once it is there."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            found = [line for line in self.lines() if text in line]
            if found:
                return found[0]
            assert self.process.poll() is None, self.lines()
            time.sleep(0.05)
        raise TimeoutError(text)

    def children(self) -> list[int]:
        """Processes that it started, and theirs."""
        listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True)
        pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        found = [self.process.pid]
        for parent in found:
            found += [pid for pid, ppid in pairs if ppid == parent]
        return found[1:]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[list[Program]]:
    started: list[Program] = []
    yield started
    for program in started:
        for pid in [*program.children(), program.process.pid]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        program.process.wait()


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_it_opens_on_the_runs_of_the_newest_job_and_ends_cleanly(
    home: Path, tmp_path: Path, programs: list[Program]
) -> None:
    store = f"sqlite:///{home}/mlflow.db"
    about = {"florence.name": "j", "florence.namespace": "n", "mlflow.source.type": "LOCAL"}
    for number, experiment in enumerate(("older", "newest")):
        MlflowRun(
            RunTarget(uri=store, experiment=experiment, job="j", stage="s", attempt=1, name="j/s",
                      started=1000 + number, tags=about, job_name="j" if number else None,
                      job_tags=about)
        ).open()  # fmt: skip
    (home / "artifacts" / "default" / "j" / "s" / "tensorboard").mkdir(parents=True)
    port = free_port()
    program = Program(tmp_path, port)
    programs.append(program)
    page = program.says("MLflow on http").split()[-1]
    # It answers by then: no waiting here.
    api = f"http://{HOST}:{port}/api/2.0/mlflow"
    names = {
        e["experiment_id"]: e["name"]
        for e in answer(f"{api}/experiments/search", {"max_results": 10})["experiments"]
    }
    assert sorted(names.values()) == ["newest", "older"]
    (newest,) = (key for key, name in names.items() if name == "newest")
    expected = f"http://{HOST}:{port}/#/experiments/{newest}/runs?workflowType=machine_learning"
    assert page == expected
    # Nobody works on that job any more: its runs are not shown as running.
    found = answer(f"{api}/runs/search", {"experiment_ids": list(names), "max_results": 10})
    states = [run["info"]["status"] for run in found["runs"]]
    assert states == ["FAILED"] * 3
    assert all(run["info"]["end_time"] >= run["info"]["start_time"] for run in found["runs"])
    curves = program.says("TensorBoard on http").split()[-1]
    assert curves != f"http://{HOST}:{port}"
    assert is_up(curves, wait=0)
    children = program.children()
    assert children
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(120) == 0
    wait_for(lambda: all(map(is_gone, children)))
    # One note each, no request log, no traceback.
    assert len(program.lines()) == 3, program.lines()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_can_be_stopped_while_it_starts(
    home: Path, tmp_path: Path, programs: list[Program], number: signal.Signals
) -> None:
    (home / "mlflow.db").touch()
    program = Program(tmp_path, free_port())
    programs.append(program)
    program.says("starting MLflow")
    wait_for(program.children)
    children = program.children()
    program.process.send_signal(number)
    assert program.process.wait(120) == 0
    wait_for(lambda: all(map(is_gone, children)))
    assert program.lines() == ["starting MLflow; Ctrl-C stops it"]


@pytest.mark.slow
def test_a_store_that_is_none_is_told_with_what_mlflow_says(
    home: Path, tmp_path: Path, programs: list[Program]
) -> None:
    (home / "mlflow.db").write_text("this is no database, and nothing makes it one")
    program = Program(tmp_path, free_port())
    programs.append(program)
    assert program.process.wait(300) == 1
    assert "MLflow did not start: " in program.lines()[-1]
    assert "Traceback" not in "\n".join(program.lines())


def test_only_runs_whose_job_nobody_runs_are_ended(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = {"florence.namespace": "default", "mlflow.source.type": "LOCAL"}
    runs = {
        "worked on": {**local, "florence.name": "held"},
        "gone": {**local, "florence.name": "gone"},
        "of a cluster": {**local, "florence.name": "gone", "mlflow.source.type": "JOB"},
        "somebody's": {},
    }
    asked: list[tuple[str, Any]] = []

    def told(url: str, question: Any) -> dict[str, Any]:
        asked.append((url.rpartition("/")[2], question))
        return {
            "runs": [
                {
                    "info": {"run_id": name, "start_time": 5000},
                    "data": {"tags": [{"key": k, "value": v} for k, v in tags.items()]},
                }
                for name, tags in runs.items()
            ]
        }

    monkeypatch.setattr(abandoned_runs, "answer", told)
    records = Records(home)
    with records.lock("default", "held"):
        abandoned_runs.end_abandoned_runs("http://api", ["1"], records)
    (_, search), *rest = asked
    assert search["filter"] == "attributes.status = 'RUNNING'"
    assert [(verb, question["run_id"]) for verb, question in rest] == [
        ("set-tag", "gone"),
        ("update", "gone"),
    ]
    assert rest[1][1] == {"run_id": "gone", "status": "FAILED", "end_time": 5000}
