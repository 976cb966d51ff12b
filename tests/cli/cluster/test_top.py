"""``florencectl top`` against the stand-in API server, also live on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.cluster_objects import attempt, job, stage
from tests.cli.cluster_server import ServedCluster, served_cluster

TIMEOUT = 60.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def running(step: int) -> dict[str, object]:
    progress = {"step": step, "total": 600, "samplesPerSecond": 400.0}
    at_work = stage("mixed", "Running", attempts=[attempt()], progress=progress)
    return job("Running", at_work, stage("clean"))


def test_once_it_is_a_list(cluster: ServedCluster) -> None:
    result = cluster.run("top")
    assert (result.returncode, result.stdout) == (0, "")
    assert "no stage is at work" in result.stderr

    cluster.put(running(120))
    result = cluster.run("top", "-A")
    assert result.returncode == 0
    header, row = result.stdout.splitlines()
    assert header.split()[:4] == ["NAMESPACE", "NAME", "STAGE", "STATE"]
    assert row.split()[:7] == ["team", "big", "mixed", "Running", "train", "120/600", "(20%)"]
    (document,) = json.loads(cluster.run("top", "big", "-o", "json").stdout)
    assert document["progress"]["step"] == 120
    assert cluster.run("top", "nothing").returncode == 3


def test_on_a_terminal_it_goes_on_until_it_is_interrupted(cluster: ServedCluster) -> None:
    cluster.put(running(120))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "florencectl.main", "top", "--interval", "0.2"],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=cluster.environment(COLUMNS="200", TERM="xterm"),
    )
    os.close(theirs)
    try:
        read_until(ours, b"120/600")
        cluster.put(running(121))
        read_until(ours, b"121/600")
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, wanted: bytes) -> None:
    """Read what a program shows until the bytes are among it."""
    seen, deadline = b"", time.monotonic() + TIMEOUT
    while wanted not in seen:
        assert time.monotonic() < deadline, seen.decode(errors="replace")
        if select.select([terminal], [], [], 1.0)[0]:
            seen += os.read(terminal, 65_536)
