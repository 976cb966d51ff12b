"""``map`` by threads or processes that keeps the order and works only so far ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from florence.errors import TransientError

T = TypeVar("T")
U = TypeVar("U")


def map_in_threads(function: Callable[[T], U], items: Iterable[T], threads: int) -> Iterator[U]:
    """Results in the order of the items; at most twice as many as threads are in work or wait."""
    with ThreadPoolExecutor(threads) as pool:
        yield from _mapped(pool, function, items, 2 * threads)


def map_in_processes(function: Callable[[T], U], items: Iterable[T], processes: int) -> Iterator[U]:
    """Results in the order of the items, computed in this process when ``processes`` is 1.

    Raises:
        TransientError: a process died, as it does when memory runs out.
    """
    if processes <= 1:
        yield from map(function, items)
        return
    # Not fork: a library's threads would be missing in the children.
    with ProcessPoolExecutor(processes, get_context("forkserver")) as pool:
        try:
            yield from _mapped(pool, function, items, 2 * processes)
        except BrokenProcessPool as error:
            raise TransientError(
                "a worker process was killed or ran out of memory: use fewer --processes; the "
                "same command goes on where this one stopped"
            ) from error


def _mapped(
    pool: Executor, function: Callable[[T], U], items: Iterable[T], ahead: int
) -> Iterator[U]:
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
