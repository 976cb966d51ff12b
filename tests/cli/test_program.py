"""Where commands go, what the program calls itself, and options that hold everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florencectl.cluster.connection import Place, is_configured
from florencectl.main import app, spelt_out
from florencectl.program import program_name


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/florencectl", "florencectl"),
        ("/usr/local/bin/kubectl-florence", "kubectl florence"),
        ("kubectl-florence.exe", "kubectl florence"),
        ("pytest", "florencectl"),
    ],
)
def test_the_program_is_called_what_the_user_called_it(called: str, name: str) -> None:
    assert program_name(called) == name


def run_as_plugin(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    code = f"import sys; sys.argv[0] = 'kubectl-florence'; {script}"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], text=True, capture_output=True, timeout=60
    )


def test_a_kubectl_plugin_names_itself_in_usage_and_errors() -> None:
    main = "from florencectl.main import main; main()"
    assert "Usage: kubectl florence get" in run_as_plugin(main, "get", "--help").stdout
    result = run_as_plugin(main, "get", "nothing")
    assert result.returncode == 3
    assert "kubectl florence: job 'nothing'" in result.stderr


def test_kubectl_completes_the_plugins_words() -> None:
    complete = "from florencectl.completing import kubectl_complete as c; c()"
    assert run_as_plugin(complete, "desc").stdout.splitlines() == ["describe", ":4"]
    assert "--rank" in run_as_plugin(complete, "logs", "--ra").stdout.splitlines()
    assert run_as_plugin(complete, "submit", "-f", "").stdout.splitlines()[-1] in (":0", ":4")


def test_a_cluster_is_configured_where_kubectl_would_find_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = tmp_path / "token"
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert not is_configured(Place(), {}, nowhere)
    assert is_configured(Place(context="x"), {}, nowhere)
    assert is_configured(Place(kubeconfig="x"), {}, nowhere)
    file = tmp_path / "config"
    file.touch()
    assert is_configured(Place(), {"KUBECONFIG": f"/nowhere{os.pathsep}{file}"}, nowhere)
    assert not is_configured(Place(), {"KUBECONFIG": "/nowhere"}, nowhere)
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert is_configured(Place(), {}, nowhere)
    nowhere.touch()
    assert is_configured(Place(), {"KUBECONFIG": "/nowhere"}, nowhere)


@pytest.mark.parametrize("command", [["get"], ["logs", "x"], ["delete", "x"]])
def test_without_a_cluster_the_machines_jobs_are_meant_and_that_is_said(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    words = "no cluster configured (no kubeconfig): jobs of this machine"
    assert words in CliRunner().invoke(app, command).stderr
    asked = CliRunner().invoke(app, [*command, "--local"])
    assert words not in asked.stderr
    assert CliRunner().invoke(app, [*command, "--local", "--context", "c"]).exit_code == 2


@pytest.mark.parametrize("command", ["stop", "suspend", "resume", "retry", "why", "wait"])
def test_without_a_cluster_jobs_of_this_machine_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, [command, "x"])
    assert result.exit_code == 3
    assert "no cluster configured (no kubeconfig): jobs of this machine" in result.stderr
    assert "job 'x' was not found on this machine" in result.stderr
    assert CliRunner().invoke(app, [command, "x", "--local", "--context", "c"]).exit_code == 2


def test_commands_of_clusters_say_that_there_is_none() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 2
    assert "kubeconfig" in result.stderr
    assert "Traceback" not in result.stderr


def test_quiet_drops_notes_and_keeps_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["logs", "x", "-q"])
    assert result.exit_code == 3
    assert result.stderr == ("florencectl: job 'x' was not found on this machine; there: none\n")


def test_a_bare_dry_run_means_the_clients() -> None:
    assert spelt_out(["-f", "x", "--dry-run"]) == ["-f", "x", "--dry-run=client"]
    assert spelt_out(["--dry-run=server"]) == ["--dry-run=server"]
    assert spelt_out(["--", "--dry-run"]) == ["--", "--dry-run"]
