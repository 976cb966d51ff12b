"""``florencectl ui``: what it refuses, and that it serves this machine's store."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florencectl.commands import ui
from florencectl.main import app

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
        other.bind((ui.HOST, 0))
        other.listen()
        port = other.getsockname()[1]
        result = RUNNER.invoke(app, ["ui", "--port", str(port)])
    assert result.exit_code == 2
    assert f"port {port} is taken" in result.stderr


def test_it_becomes_a_server_of_the_store_for_this_machine_only(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mlflow.db").touch()
    with socket.socket() as probe:
        probe.bind((ui.HOST, 0))
        port = str(probe.getsockname()[1])
    started: list[list[str]] = []
    monkeypatch.setattr(ui.os, "execv", lambda path, command: started.append(command))
    result = RUNNER.invoke(app, ["ui", "--port", port])
    assert result.exit_code == 0, result.stderr
    (command,) = started
    assert command[:4] == [sys.executable, "-m", "mlflow", "server"]
    options = dict(zip(command[4::2], command[5::2], strict=True))
    assert options["--host"] == "127.0.0.1"
    assert options["--port"] == port
    assert options["--backend-store-uri"] == f"sqlite:///{home}/mlflow.db"
    assert f"http://127.0.0.1:{port}" in result.stderr
