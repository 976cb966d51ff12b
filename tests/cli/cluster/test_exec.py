"""``florencectl exec`` finds the pod of a rank and leaves the rest to kubectl."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cluster_objects import attempt, job, pod, stage
from tests.cli.cluster_server import ServedCluster, served_cluster

KUBECTL = '#!/bin/sh\nprintf "%s\\n" "$@" > "$KUBECTL_ARGUMENTS"\nexit 7\n'


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a kubectl on the PATH writes what it was called with."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "kubectl").write_text(KUBECTL)
    (programs / "kubectl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("KUBECTL_ARGUMENTS", str(tmp_path / "arguments"))
    return tmp_path / "arguments"


def put_running(cluster: ServedCluster) -> None:
    attempts = [attempt(1, completionTime="2026-01-01T00:00:00Z", cause="Killed"), attempt(2)]
    cluster.put(job("Running", stage("mixed", "Running", attempts=attempts)))
    for number in (1, 2):
        cluster.put(*(pod(index, number) for index in (0, 1)))


def test_the_newest_attempt_s_pod_of_the_rank_is_meant(
    cluster: ServedCluster, arguments: Path
) -> None:
    put_running(cluster)
    result = cluster.run("exec", "big", "--rank", "8", "--", "nvidia-smi", "-L")
    assert result.returncode == 7
    line = arguments.read_text().splitlines()
    assert line[:4] == ["exec", "--namespace", "team", "--stdin"]
    assert line[-5:] == [
        "pytorch",
        pod(1, 2)["metadata"]["name"],
        "--",
        "nvidia-smi",
        "-L",
    ]
    assert "--tty" not in line


def test_the_cluster_that_was_named_is_kubectl_s_too(
    cluster: ServedCluster, arguments: Path
) -> None:
    put_running(cluster)
    kubeconfig = str(cluster.kubeconfig)
    cluster.run("exec", "big", "--kubeconfig", kubeconfig, "-n", "team")
    line = arguments.read_text().splitlines()
    assert line[:3] == ["exec", "--kubeconfig", kubeconfig]
    assert line[-1] == "bash"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--rank", "16"], 3, "stage 'mixed' has ranks 0 to 15, not 16"),
        (["--stage", "nothing"], 2, "has no stage 'nothing'"),
    ],
)
def test_what_is_not_there_is_told(
    cluster: ServedCluster, arguments: Path, options: list[str], code: int, words: str
) -> None:
    put_running(cluster)
    result = cluster.run("exec", "big", *options)
    assert result.returncode == code
    assert words in result.stderr
    assert not arguments.exists()


def test_a_pod_that_does_not_run_is_told(cluster: ServedCluster, arguments: Path) -> None:
    cluster.put(job("Starting", stage("mixed", "Starting", attempts=[attempt()])))
    cluster.put(pod(0, 1, "Pending"))
    result = cluster.run("exec", "big")
    assert result.returncode == 3
    assert "no pod runs rank 0 of stage 'mixed' (attempt 1)" in result.stderr


def test_without_kubectl_it_says_so(
    cluster: ServedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = cluster.run("exec", "big")
    assert result.returncode == 2
    assert "exec needs kubectl" in result.stderr
