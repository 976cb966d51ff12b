"""``florencectl events`` against the stand-in API server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.cluster_objects import attempt, job, pod, stage
from tests.cli.cluster_server import ServedCluster, served_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def event(name: str, kind: str, about: str, message: str, minute: int, count: int = 1) -> Any:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": "team"},
        "involvedObject": {"kind": kind, "name": about},
        "type": "Warning",
        "reason": "FailedScheduling",
        "message": message,
        "count": count,
        "lastTimestamp": f"2026-01-01T00:{minute:02d}:00Z",
    }


def put_job(cluster: ServedCluster) -> str:
    cluster.put(job("Starting", stage("mixed", "Starting", attempts=[attempt()])), pod(0))
    return str(pod(0)["metadata"]["name"])


def test_they_are_of_the_job_and_its_pods_oldest_first(cluster: ServedCluster) -> None:
    name = put_job(cluster)
    cluster.put(
        event("b", "Pod", name, "0/2 nodes are\navailable", 2, count=3),
        event("a", "FlorenceJob", "big", "an attempt started", 1),
        event("c", "Pod", "of-somebody-else", "nothing to do with it", 3),
    )
    result = cluster.run("events", "big")
    assert result.returncode == 0
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "COUNT", "MESSAGE"]
    assert first.startswith("2026-01-01T00:01:00Z")
    assert "an attempt started" in first
    assert f"Pod/{name}" in second
    assert second.endswith("3       0/2 nodes are available")


def test_none_is_said_and_a_job_that_is_not_there_is_not_found(cluster: ServedCluster) -> None:
    put_job(cluster)
    result = cluster.run("events", "big")
    assert (result.returncode, result.stdout) == (0, "")
    assert "no events of job 'big'" in result.stderr
    assert cluster.run("events", "nothing").returncode == 3


def test_watched_it_tells_each_once(cluster: ServedCluster) -> None:
    name = put_job(cluster)
    cluster.put(event("a", "Pod", name, "first", 1))
    process = cluster.start("events", "big", "-w")
    try:
        assert process.stdout is not None
        assert "LAST SEEN" in process.stdout.readline()
        assert "first" in process.stdout.readline()
        cluster.put(event("b", "Pod", name, "second", 2))
        assert "second" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
