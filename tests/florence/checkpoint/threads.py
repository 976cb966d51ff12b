"""A gang of threads, for tests of many ranks that need no process of their own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


class ThreadExchange:
    """One rank's end of an exchange between threads; also its world."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.size = len(slots)
        self._slots = slots
        self._barrier = barrier

    def gather(self, value: Any) -> list[Any] | None:
        self._slots[self.rank] = value
        self._barrier.wait(30)
        gathered = list(self._slots) if self.rank == 0 else None
        self._barrier.wait(30)
        return gathered

    def broadcast(self, value: Any) -> Any:
        if self.rank == 0:
            self._slots[0] = value
        self._barrier.wait(30)
        shared = self._slots[0]
        self._barrier.wait(30)
        return shared


def run_threads(function: Callable[[ThreadExchange], T], size: int) -> list[T | BaseException]:
    """What ``function`` returned or raised on each rank of a gang of threads."""
    slots: list[Any] = [None] * size
    barrier = threading.Barrier(size)
    outcomes: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            outcomes[rank] = function(ThreadExchange(rank, slots, barrier))
        except BaseException as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
