"""The pod's entry point as two real pods would run it: two processes, one rendezvous."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from florence_jobs.log_tail import LOST_PEERS, LogTail, failure_line
from florence_operator.api.termination import last_words

PLAN = {
    "job": "j",
    "namespace": "n",
    "uid": "u",
    "stage": "mixed",
    "attempt": 2,
    "kind": "pretrain",
    "config": {
        "data": "builtin:digits/train",
        "batchSize": 8,
        "steps": 3,
        "resolution": 32,
        "text": {"templates": "digits"},
        "loader": {"workers": 0},
        "engine": "torch",
    },
    "model": {"preset": "coswin-nano"},
    "graceSeconds": 20,
}


STARTED: list[subprocess.Popen[bytes]] = []


@pytest.fixture(autouse=True)
def nothing_trains_on() -> Iterator[None]:
    """A test that fails leaves no pod behind that trains beside the next one."""
    yield
    for pod in STARTED:
        if pod.poll() is None:
            processes = [psutil.Process(pod.pid), *psutil.Process(pod.pid).children(recursive=True)]
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            pod.communicate()
    STARTED.clear()


def start(folder: Path, plan: dict[str, Any], index: int = 0, nodes: int = 1, port: int = 0) -> Any:
    home = folder / f"pod-{index}"
    home.mkdir(exist_ok=True)
    (home / "stage.json").write_text(json.dumps(plan))
    environment = {
        **os.environ,
        "PET_NNODES": str(nodes),
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(index),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "FLORENCE_HOME": str(home),
        "TERMINATION_LOG": str(home / "termination-log"),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }
    pod = subprocess.Popen(
        [sys.executable, "-m", "florence_jobs.pod", str(home / "stage.json")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    STARTED.append(pod)
    return pod


def words(folder: Path, index: int = 0) -> Any:
    return last_words((folder / f"pod-{index}" / "termination-log").read_text())


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
def test_two_pods_train_together_and_leave_their_logs_and_last_words(tmp_path: Path) -> None:
    output = tmp_path / "artifacts"
    plan = {**PLAN, "output": str(output), "progress": {"url": "http://127.0.0.1:9/none"}}
    port = free_port()
    pods = [start(tmp_path, plan, index, 2, port) for index in (0, 1)]
    logs = [pod.communicate(timeout=300)[0].decode() for pod in pods]
    assert [pod.returncode for pod in pods] == [0, 0], logs
    for index, log in enumerate(logs):
        kept = (output / f"logs/attempt-2/worker-{index}.log").read_text()
        assert kept in log
        assert f"[rank {index}]" in kept
    first = words(tmp_path)
    assert first.failure is None
    assert first.step == 3
    assert first.checkpoint_step == 3
    assert first.logs == f"{output}/logs/attempt-2"
    assert words(tmp_path, 1).step is None  # rank 0 alone tells


def test_a_stage_that_cannot_run_says_why_in_its_last_words(tmp_path: Path) -> None:
    config = {**PLAN["config"], "data": str(tmp_path / "nowhere")}  # type: ignore[dict-item]
    pod = start(tmp_path, {**PLAN, "config": config, "output": str(tmp_path / "out")})
    log = pod.communicate(timeout=120)[0].decode()
    assert pod.returncode == 3, log
    last = words(tmp_path)
    assert "nowhere" in last.failure
    assert not last.lost_peer
    assert any("nowhere" in line for line in last.lines)


def test_a_plan_that_cannot_be_read_is_a_wrong_configuration(tmp_path: Path) -> None:
    pod = start(tmp_path, {**PLAN, "output": "/o", "attempt": 0})
    pod.communicate(timeout=60)
    assert pod.returncode == 2
    assert "attempt" in words(tmp_path).failure


@pytest.mark.slow
def test_sigterm_ends_in_a_checkpoint_and_143(tmp_path: Path) -> None:
    output = tmp_path / "artifacts"
    config = {**PLAN["config"], "steps": 10_000}  # type: ignore[dict-item]
    plan = {
        **PLAN,
        "config": config,
        "output": str(output),
        "progress": {"url": "http://x.invalid"},
    }
    pod = start(tmp_path, plan)
    wait_for_a_step(pod, tmp_path)
    pod.send_signal(signal.SIGTERM)
    log = pod.communicate(timeout=120)[0].decode()
    assert pod.returncode == 143, log
    assert list((output / "commits").iterdir())
    assert words(tmp_path).asked_to_stop is True
    assert words(tmp_path).ranks == ()
    assert [path.name for path in (output / "logs/attempt-2").iterdir()] == ["worker-0.log"]


def wait_for_a_step(pod: Any, folder: Path) -> None:
    record = folder / "pod-0" / "progress.json"
    deadline = time.monotonic() + 120
    while not (record.exists() and json.loads(record.read_text())["step"] > 0):
        assert pod.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_trainer_that_is_killed_was_not_asked_to_stop(tmp_path: Path) -> None:
    config = {**PLAN["config"], "steps": 10_000}  # type: ignore[dict-item]
    plan = {
        **PLAN,
        "config": config,
        "output": str(tmp_path / "artifacts"),
        "progress": {"url": "http://x.invalid"},
    }
    pod = start(tmp_path, plan)
    wait_for_a_step(pod, tmp_path)
    trainers = [
        process
        for process in psutil.Process(pod.pid).children(recursive=True)
        if "florence_jobs.main" in process.cmdline()[:4]
    ]
    assert len(trainers) == 1
    trainers[0].kill()
    log = pod.communicate(timeout=120)[0].decode()
    assert pod.returncode == 137, log
    assert words(tmp_path).asked_to_stop is False
    assert (words(tmp_path).failure or "").startswith("rank 0 was killed (SIGKILL)")


LEAVES_ONE_BEHIND = """
import subprocess, sys
subprocess.Popen(["cat", sys.argv[1]])  # waits for a writer, with this process's stdout
print("the last line", flush=True)
sys.exit(4)
"""


def test_what_a_stage_leaves_behind_does_not_keep_its_pod(tmp_path: Path) -> None:
    """A helper that outlives its trainer holds the pipe, and no GPU should be held for it."""
    fifo = tmp_path / "never-written"
    os.mkfifo(fifo)
    program = (
        "import sys; from pathlib import Path; from florence_jobs import pod\n"
        "from florence_jobs.log_tail import LogTail\n"
        "tail = LogTail()\n"
        "ended = pod.run(sys.argv[1:], tail, Path('progress.json'))\n"
        "print(ended.code, tail.read())"
    )
    stage = [sys.executable, "-c", LEAVES_ONE_BEHIND, str(fifo)]
    ended = subprocess.run(
        [sys.executable, "-c", program, *stage], capture_output=True, text=True, timeout=300
    )
    with fifo.open("w"):  # blocks until it is read: the helper is still there, and ends with this
        pass
    assert ended.stdout == "the last line\n4 b'the last line\\n'\n", ended


def test_the_tail_keeps_whole_lines() -> None:
    tail = LogTail(limit=100)
    for number in range(100):
        tail.add(f"line {number}\n".encode())
    lines = tail.read().decode().splitlines()
    assert lines[-1] == "line 99"
    assert lines == [f"line {n}" for n in range(100 - len(lines), 100)]
    assert len(tail.read()) <= 100


def test_a_lost_peer_is_not_the_cause_while_another_rank_says_more() -> None:
    log = (
        f"2026 [rank 0] ERROR {LOST_PEERS} (closed by peer); try again\n"
        "2026 [rank 1] ERROR Unexpected ValueError: the cause\n"
    )
    assert failure_line(log.encode()) == "Unexpected ValueError: the cause"


WATCHDOG = (
    "[rank1]:[E1124 17:49:00.123 ProcessGroupNCCL.cpp:688] [Rank 1] Watchdog caught collective "
    "operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE) ran for 600021 milliseconds\n"
)


def test_a_process_that_nccl_aborts_for_a_silent_peer_is_not_the_cause() -> None:
    line = failure_line(WATCHDOG.encode(), 134)
    assert line.startswith(LOST_PEERS)
    assert "SeqNum=7, OpType=ALLREDUCE" in line
    assert failure_line(WATCHDOG.encode(), 137) == "ended by SIGKILL"
    assert failure_line(b"double free\n", 134) == "ended by SIGABRT"
    cause = "2026 [rank 0] ERROR s3://b: gone\n"
    assert failure_line((WATCHDOG + cause).encode(), 134) == "s3://b: gone"


def test_without_an_error_the_signal_or_the_last_line_speaks() -> None:
    log = b"2026 [rank 0] INFO Step 1\nSegmentation fault\n\n"
    assert failure_line(log, 137) == "ended by SIGKILL"
    assert failure_line(log, 1) == "Segmentation fault"
    assert failure_line(log, 128 + 200) == "Segmentation fault"
    assert failure_line(b"", 1) == "ended without a message"
