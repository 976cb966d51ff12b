"""What is to be worked on: each key once, by one worker at a time, now, later or again."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.metrics import QueueMetrics

K = TypeVar("K", bound=Hashable)


class QueueClosedError(Exception):
    """There is no more work to get: the queue was closed."""


class WorkQueue(Generic[K]):
    """Keys that wait, are worked on, or have an appointment.

    A key that is added while it waits is not added again. One that is added while it is worked on
    waits again as soon as that is done, so what happened in between is not lost.
    """

    def __init__(
        self, *, backoff: Backoff | None = None, metrics: QueueMetrics | None = None
    ) -> None:
        self._backoff = backoff or Backoff(first=0.2, longest=120.0)
        self._metrics = metrics
        self._waiting: deque[K] = deque()
        self._since: dict[K, float] = {}
        """When each waiting or dirty key was added; every key in here is still to be got."""
        self._working: dict[K, float] = {}
        self._appointments: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._getters: deque[asyncio.Future[None]] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: K) -> None:
        """The key is to be worked on now."""
        if self._closed or key in self._since:
            return
        self._since[key] = self._now()
        if self._metrics:
            self._metrics.added()
        if key not in self._working:
            self._wait(key)

    def add_after(self, key: K, seconds: float) -> None:
        """The key is to be worked on in so many seconds; of several appointments, the first."""
        if self._closed:
            return
        if seconds <= 0:
            self.add(key)
            return
        when = self._now() + seconds
        known = self._appointments.get(key)
        if known is not None:
            if known.when() <= when:
                return
            known.cancel()
        loop = asyncio.get_running_loop()
        self._appointments[key] = loop.call_at(when, self._due, key)

    def add_failed(self, key: K) -> float:
        """The key is to be worked on again, later after each failure; gives the delay."""
        self._failures[key] = self._failures.get(key, 0) + 1
        if self._metrics:
            self._metrics.retried()
        delay = self._backoff.delay(self._failures[key])
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """The key's failures are over: the next one is the first again."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """How often in a row the key has failed."""
        return self._failures.get(key, 0)

    async def get(self) -> K:
        """The next key; it is not given to anybody else until :meth:`done` is called for it.

        Raises:
            QueueClosedError: the queue was closed.
        """
        while not self._waiting and not self._closed:
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                if getter.done() and not getter.cancelled():
                    self._wake()  # It was told of a key that it will not take.
                raise
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)
        if self._closed:
            raise QueueClosedError
        key = self._waiting.popleft()
        now = self._now()
        added = self._since.pop(key)
        self._working[key] = now
        if self._metrics:
            self._metrics.got(len(self._waiting), now - added)
        return key

    def done(self, key: K) -> None:
        """The work on a key has ended, well or not."""
        started = self._working.pop(key)
        if self._metrics:
            self._metrics.done(self._now() - started)
        if key in self._since:
            self._wait(key)

    def close(self) -> None:
        """Nobody gets a key any more; those at work go on and finish."""
        self._closed = True
        for handle in self._appointments.values():
            handle.cancel()
        self._appointments.clear()
        while self._getters:
            self._wake()

    def _due(self, key: K) -> None:
        del self._appointments[key]
        self.add(key)

    def _wait(self, key: K) -> None:
        self._waiting.append(key)
        if self._metrics:
            self._metrics.depth(len(self._waiting))
        self._wake()

    def _wake(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
