"""Computing items in worker processes, in order, with ends that are clean whatever happens.

torch's ``DataLoader`` hands out the work and notices dead workers; this adds what it lacks. Bulk
data lies in buffers made before the fork, so it is written once, copied never and needs no
``/dev/shm``, which containers keep small. Failures keep their one-line message, a dead worker is an
error to try again after, workers outlive the stop signals of their group, and none is left behind.
"""

from __future__ import annotations

import atexit
import contextlib
import mmap
import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from florence.errors import FlorenceError, TransientError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


Buffer = NDArray[np.uint8]


class Maker(Protocol[T_co]):
    """Makes an item from its number; lives once in every worker process."""

    @property
    def buffer_size(self) -> int:
        """Bytes of bulk data that an item has at most."""

    def make(self, number: int, buffer: Buffer) -> T_co:
        """Write bulk data to the buffer, return the rest. May raise :class:`FlorenceError`."""


class _Items(Dataset[Any]):
    """What torch calls. A failure is returned: torch would put a traceback into its message."""

    def __init__(self, maker: Maker[Any], numbers: Sequence[int], buffers: Buffer) -> None:
        self.maker = maker
        self.numbers = numbers
        self.buffers = buffers

    def __getitem__(self, turn: int) -> Any:
        try:
            return self.maker.make(self.numbers[turn], self.buffers[turn % len(self.buffers)])
        except FlorenceError as error:
            return error


class WorkerPool(Generic[T]):
    """The items ``maker.make(n)`` for the given numbers, in their order; an iterator.

    Gives ``(item, buffer)``; the buffer is good until the next item is asked for. Worker ``w`` of
    ``W`` makes the items at ``w, w + W, …`` of ``numbers``.

    Args:
        maker: makes an item. It is forked into the workers, so it shares the memory it holds.
        numbers: one per item.
        workers: processes; 0 computes in this one, when asked for an item.
        prefetch: items that each worker makes ahead.

    Raises:
        FlorenceError: what ``make`` raised; the pool is closed then.
        TransientError: a worker died.
    """

    def __init__(
        self,
        maker: Maker[T],
        numbers: Sequence[int],
        *,
        workers: int,
        prefetch: int = 2,
    ) -> None:
        workers = min(workers, len(numbers))
        options: dict[str, Any] = {}
        if workers:
            options = {"prefetch_factor": prefetch, "multiprocessing_context": "fork"}
        # torch has this many items in work while we hold one more.
        self._buffers = shared_buffers(workers * prefetch + 1, maker.buffer_size)
        self._turn = 0
        before = set(multiprocessing.active_children())
        with stop_signals_blocked(), warnings.catch_warnings():
            # How many workers there are is the user's choice; torch remarks on it twice per rank.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            loader: DataLoader[Any] = DataLoader(
                _Items(maker, numbers, self._buffers),
                batch_size=None,
                sampler=range(len(numbers)),
                num_workers=workers,
                # Its own, or it would draw from the global one, and a resumed run differ.
                generator=torch.Generator(),
                **options,
            )
            self._items: Iterator[Any] | None = iter(loader)
        self._processes = [p for p in multiprocessing.active_children() if p not in before]
        # At exit torch ends its workers by SIGTERM, which they never see, and waits. What is
        # registered last runs first, so ours are gone by then.
        atexit.register(self.close)

    @property
    def pids(self) -> list[int]:
        """The worker processes that are alive."""
        return [p.pid for p in self._processes if p.is_alive() and p.pid is not None]

    def __iter__(self) -> Iterator[tuple[T, Buffer]]:
        return self

    def __next__(self) -> tuple[T, Buffer]:
        if self._items is None:
            raise StopIteration
        try:
            item = next(self._items)
        except RuntimeError as error:
            dead = [p for p in self._processes if not p.is_alive()]
            if not dead:
                raise
            self.close()
            raise TransientError(
                f"a data loader process ended with code {dead[0].exitcode}: it was killed, or ran "
                "out of memory; if so lower loader.workers, loader.prefetch or loader.cacheBytes"
            ) from error
        if isinstance(item, FlorenceError):
            self.close()
            raise item
        buffer = self._buffers[self._turn % len(self._buffers)]
        self._turn += 1
        return item, buffer

    def close(self) -> None:
        """End the worker processes; may be called again."""
        self._items = None  # torch stops its workers when nobody refers to the iterator any more
        for process in self._processes:
            if process.is_alive():  # stuck in a read
                process.kill()
            process.join()
        self._processes = []
        atexit.unregister(self.close)


def shared_buffers(count: int, size: int) -> Buffer:
    """Zeros ``(count, size)`` in memory that processes forked from now on share."""
    if not count * size:
        return np.zeros((count, size), np.uint8)
    return np.frombuffer(mmap.mmap(-1, count * size), np.uint8).reshape(count, size)


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM, for ever in processes that are forked meanwhile.

    Ctrl-C and a group's SIGTERM reach workers too, and without them the main process could not
    finish its step. Here the signals wait until the end of the block; none is lost.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
