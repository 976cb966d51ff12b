"""A pod whose gang hangs: one rank waits in a collective over gloo for one that never comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from florence_jobs.evidence.keeper import AFTER
from florence_jobs.evidence.rank import SIGNAL, rank_files
from florence_jobs.evidence.report import groups_of, ranks_of
from florence_operator.api.ranks import sentence
from florence_operator.api.termination import last_words
from tests.jobs.test_pod import PLAN

pytestmark = pytest.mark.slow

POD = """
import os, sys
from florence_jobs import pod
whole = pod.command
pod.command = lambda *given: [*whole(*given)[:-3], os.environ["PROGRAM"]]
sys.exit(pod.main(sys.argv[1:], os.environ))
"""
RANK = """
import signal, threading
import torch
from florence.distributed.world import join
from florence.stages.context import Stop
from florence_jobs.evidence.rank import offer_stacks

def reads_for_ever():
    threading.Event().wait()

stacks = offer_stacks()
stop = Stop()
signal.signal(signal.SIGTERM, stop.request)
world = join(600)
if world.is_first:
    world.all_reduce_sum(torch.ones(1))
reads_for_ever()
"""


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = tmp_path / "training.py"
    program.write_text(RANK)
    plan = {**PLAN, "output": str(tmp_path / "artifacts"), "graceSeconds": 10}
    (tmp_path / "stage.json").write_text(json.dumps(plan))
    environment = {
        **os.environ,
        "PROGRAM": str(program),
        "PET_NPROC_PER_NODE": "2",
        "FLORENCE_HOME": str(tmp_path / "home"),
        "TERMINATION_LOG": str(tmp_path / "termination-log"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
        AFTER: "0.1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", POD, str(tmp_path / "stage.json")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    yield process
    if process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        process.kill()
        process.communicate()


def test_the_pod_names_the_rank_that_is_missing(
    pod: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    until_rank_0_waits(pod, tmp_path / "home" / "evidence")
    pod.send_signal(signal.SIGTERM)
    log = pod.communicate(timeout=120)[0].decode()
    assert pod.returncode == 143, log
    text = (tmp_path / "artifacts/logs/attempt-2/worker-0.evidence.txt").read_text()
    told = sentence(groups_of(ranks_of(text)))
    assert told.startswith("rank 0 waits in all_reduce (florence/distributed/world.py:")
    assert "; rank 1 is in " in told
    assert told.endswith("training.py:9 reads_for_ever")
    words = last_words((tmp_path / "termination-log").read_text())
    assert words.asked_to_stop
    assert sentence(words.ranks) == told
    assert "worker 0 of stage 'mixed', attempt 2" in text


def until_rank_0_waits(pod: subprocess.Popen[bytes], folder: Path) -> None:
    """Ask the ranks by hand, as anybody may, until the one is in the collective."""
    deadline = time.monotonic() + 240
    while True:
        assert pod.poll() is None, pod.communicate()
        assert time.monotonic() < deadline
        ranks = rank_files(folder)
        stacks = {each.rank: each.path.read_text() for each in ranks}
        if "in all_reduce" in stacks.get(0, "") and "in reads_for_ever" in stacks.get(1, ""):
            return
        for each in ranks:
            os.kill(each.process, SIGNAL)
        time.sleep(0.2)
