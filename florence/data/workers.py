"""Computing items in worker processes, in order, with ends that are clean whatever happens.

torch's ``DataLoader`` carries tensors through shared memory and notices dead workers; this adds
what it lacks: failures keep their one-line message, a dead worker is an error to try again after,
workers outlive the stop signals of their group, and none is left behind.
"""

from __future__ import annotations

import atexit
import multiprocessing
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from florence.errors import FlorenceError, TryAgainError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Maker(Protocol[T_co]):
    """Makes an item from its number; lives once in every worker process."""

    def make(self, number: int) -> T_co:
        """The item. May raise :class:`FlorenceError`."""


class _Items(Dataset[Any]):
    """What torch calls. A failure is returned: torch would put a traceback into its message."""

    def __init__(self, maker: Maker[Any]) -> None:
        self.maker = maker

    def __getitem__(self, number: int) -> Any:
        try:
            return self.maker.make(number)
        except FlorenceError as error:
            return error


class WorkerPool(Generic[T]):
    """The items ``maker.make(n)`` for the given numbers, in their order; an iterator.

    Worker ``w`` of ``W`` makes the items at ``w, w + W, …`` of ``numbers``.

    Args:
        maker: makes an item. It is forked into the workers, so it shares the memory it holds.
        numbers: one per item.
        workers: processes; 0 computes in this one, when asked for an item.
        prefetch: items that each worker makes ahead.
        pin_memory: hand items over in page-locked memory, by their ``pin_memory`` method.

    Raises:
        FlorenceError: what ``make`` raised; the pool is closed then.
        TryAgainError: a worker died.
    """

    def __init__(
        self,
        maker: Maker[T],
        numbers: Sequence[int],
        *,
        workers: int,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        workers = min(workers, len(numbers))
        options: dict[str, Any] = {}
        if workers:
            options = {"prefetch_factor": prefetch, "multiprocessing_context": "fork"}
        before = set(multiprocessing.active_children())
        with warnings.catch_warnings():
            # How many workers there are is the user's choice; torch remarks on it twice per rank.
            warnings.filterwarnings("ignore", message="This DataLoader will create")
            loader: DataLoader[Any] = DataLoader(
                _Items(maker),
                batch_size=None,
                sampler=numbers,
                num_workers=workers,
                pin_memory=pin_memory,
                worker_init_fn=_ignore_stop_signals,
                # Its own, or it would draw from the global one, and a resumed run differ.
                generator=torch.Generator(),
                **options,
            )
            self._items: Iterator[Any] | None = iter(loader)
        self._processes = [p for p in multiprocessing.active_children() if p not in before]
        # At exit torch ends its workers by SIGTERM, which they ignore, and waits. What is
        # registered last runs first, so ours are gone by then.
        atexit.register(self.close)

    @property
    def pids(self) -> list[int]:
        """The worker processes that are alive."""
        return [p.pid for p in self._processes if p.is_alive() and p.pid is not None]

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._items is None:
            raise StopIteration
        try:
            item = next(self._items)
        except RuntimeError as error:
            dead = [p for p in self._processes if not p.is_alive()]
            if not dead:
                raise
            self.close()
            raise TryAgainError(
                f"a data loader process ended with code {dead[0].exitcode}: it was killed, or ran "
                "out of memory or of /dev/shm; if so lower loader.workers, loader.prefetch or "
                "loader.cacheBytes"
            ) from error
        if isinstance(item, FlorenceError):
            self.close()
            raise item
        return item  # type: ignore[no-any-return]

    def close(self) -> None:
        """End the worker processes; may be called again."""
        self._items = None  # torch stops its workers when nobody refers to the iterator any more
        for process in self._processes:
            if process.is_alive():  # stuck in a read
                process.kill()
            process.join()
        self._processes = []
        atexit.unregister(self.close)


def _ignore_stop_signals(worker: int) -> None:
    """Let the main process finish its step when its whole group is told to stop.

    Ctrl-C and SIGTERM reach workers too, and without them there would be no step to finish.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
