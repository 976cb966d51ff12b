from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from florence.data.workers import WorkerPool
from florence.errors import DataError, TransientError


class Squares:
    """Makes n*n, and writes n a thousand times; does what ``special`` says at some numbers."""

    buffer_size = 1000

    def __init__(self, special: dict[int, str] | None = None) -> None:
        self.special = special or {}

    def make(self, number: int, buffer: np.ndarray) -> int:
        buffer[:] = number
        match self.special.get(number):
            case "data":
                raise DataError("s3://bucket/7.tar is gone: restore it")
            case "bug":
                raise ZeroDivisionError("a bug")
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stuck":
                time.sleep(1000)
            case "pid":
                return os.getpid()
        return number * number


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_items_come_in_order(workers: int) -> None:
    pool = WorkerPool(Squares(), range(5, 30), workers=workers)
    assert [item for item, _ in pool] == [n * n for n in range(5, 30)]
    pool.close()
    assert list(pool) == []


@pytest.mark.parametrize(("workers", "prefetch"), [(0, 2), (1, 1), (2, 1), (3, 4)])
def test_a_buffer_holds_its_item_until_the_next_is_asked_for(workers: int, prefetch: int) -> None:
    pool = WorkerPool(Squares(), range(60), workers=workers, prefetch=prefetch)
    for number, (item, buffer) in enumerate(pool):
        time.sleep(0.02 if number % 7 == 0 else 0)  # workers run ahead as far as they may
        assert item == number * number
        assert (buffer == number).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_the_callers_random_numbers_are_left_alone(workers: int) -> None:
    before = torch.get_rng_state()
    assert len(list(WorkerPool(Squares(), range(4), workers=workers))) == 4
    assert torch.equal(torch.get_rng_state(), before)


def test_there_are_as_many_processes_as_asked_for_and_none_is_left() -> None:
    pool = WorkerPool(Squares(dict.fromkeys(range(8), "pid")), range(8), workers=2)
    pids = [item for item, _ in pool]
    assert len(set(pids)) == 2
    assert pids == pids[:2] * 4
    assert os.getpid() not in pids
    pool.close()
    assert not any(alive(pid) for pid in pids)
    assert WorkerPool(Squares(), range(1), workers=4).pids


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failure_keeps_its_one_line_and_ends_the_pool(workers: int) -> None:
    pool = WorkerPool(Squares({2: "data"}), range(20), workers=workers)
    pids = pool.pids
    assert [next(pool)[0], next(pool)[0]] == [0, 1]
    with pytest.raises(DataError) as failure:
        next(pool)
    assert str(failure.value) == "s3://bucket/7.tar is gone: restore it"
    assert not any(alive(pid) for pid in pids)


def test_a_bug_keeps_its_traceback() -> None:
    pool = WorkerPool(Squares({0: "bug"}), range(3), workers=1)
    with pytest.raises(ZeroDivisionError, match="in make"):
        next(pool)
    pool.close()


def test_a_killed_worker_is_an_error_to_try_again_after() -> None:
    pool = WorkerPool(Squares({3: "killed"}), range(20), workers=2, prefetch=1)
    pids = pool.pids
    with pytest.raises(TransientError, match="ended with code -9") as failure:
        list(pool)
    assert "\n" not in str(failure.value)
    assert not any(alive(pid) for pid in pids)


def test_workers_outlive_the_signals_that_ask_the_group_to_stop() -> None:
    pool = WorkerPool(Squares(), range(40), workers=2)
    assert next(pool)[0] == 0
    for pid in pool.pids:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert [item for item, _ in pool] == [n * n for n in range(1, 40)]
    pool.close()


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from tests.florence.data.test_workers import Squares
from florence.data.workers import WorkerPool
pool = WorkerPool(Squares({{5: "stuck"}}), range(20), workers=2)
print(next(pool)[0], *pool.pids, flush=True)
{end}
"""


ENDS = ("", "pool.close()", "raise SystemExit(3)", "raise ValueError")


@pytest.mark.slow
def test_no_process_is_left_behind_however_the_main_one_ends() -> None:
    """A worker is stuck in a read meanwhile."""
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(root=os.getcwd(), end=end)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for end in ENDS
    ]
    for program, end in zip(programs, ENDS, strict=True):
        out, _ = program.communicate(timeout=180)
        first, *pids = (int(word) for word in out.split())
        assert (first, len(pids)) == (0, 2), end
        assert not any(alive(pid) for pid in pids), end
