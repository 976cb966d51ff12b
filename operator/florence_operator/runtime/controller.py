"""Workers that bring objects into the state that they should be in, again and again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.store import Key
from florence_operator.runtime.workqueue import QueueClosedError, WorkQueue

__all__ = ["Controller", "Key", "Reconcile", "Result", "TerminalError"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """What follows from a good reconcile."""

    requeue_after: float | None = None
    """Seconds after which to look again even if nothing changes."""


class TerminalError(Exception):
    """A failure that trying again cannot mend; the next change of the object may."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


Reconcile = Callable[[Key], Awaitable[Result]]


class Controller:
    """Calls ``reconcile`` for every key that is enqueued, never twice at once for one key."""

    def __init__(
        self,
        name: str,
        reconcile: Reconcile,
        *,
        workers: int = 1,
        timeout: float = 60.0,
        backoff: Backoff | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._timeout = timeout
        self._metrics = metrics.controller(name, workers) if metrics else None
        self._queue: WorkQueue[Key] = WorkQueue(
            backoff=backoff, metrics=metrics.queue(name) if metrics else None
        )

    def enqueue(self, key: Key) -> None:
        """Has the object looked at as soon as a worker is free."""
        self._queue.add(key)

    def enqueue_after(self, key: Key, seconds: float) -> None:
        """Has the object looked at in so many seconds at the latest."""
        self._queue.add_after(key, seconds)

    def stop(self) -> None:
        """Starts nothing more; :meth:`run` ends when the reconciles in flight have ended."""
        self._queue.close()

    async def run(self) -> None:
        """Works until it is stopped; when it is cancelled the reconciles in flight are too."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._workers):
                group.create_task(self._work(), name=f"{self.name} worker {number}")

    async def _work(self) -> None:
        while True:
            try:
                key = await self._queue.get()
            except QueueClosedError:
                return
            try:
                await self._once(key)
            finally:
                self._queue.done(key)
            # A reconcile need not wait for anything; probes and servers must get their turn.
            await asyncio.sleep(0)

    async def _once(self, key: Key) -> None:
        started = asyncio.get_running_loop().time()
        if self._metrics:
            self._metrics.started()
        outcome = "error"
        try:
            outcome = await self._outcome(key)
        finally:
            if self._metrics:
                self._metrics.ended(outcome, asyncio.get_running_loop().time() - started)

    async def _outcome(self, key: Key) -> str:
        where = {"controller": self.name, "namespace": key.namespace, "object": key.name}
        try:
            async with asyncio.timeout(self._timeout):
                result = await self._reconcile(key)
        except TerminalError as error:
            self._queue.forget(key)
            log.error("gave up on %s/%s: %s: %s", *key, error.reason, error, extra=where)
            return "terminal"
        except Exception as error:
            problem = str(error) or type(error).__name__
            if isinstance(error, TimeoutError):
                problem = f"took longer than {self._timeout:g}s, or waited for an answer too long"
            delay = self._queue.add_failed(key)
            known = self._queue.failures(key) > 1
            log.warning(
                "failed on %s/%s, again in %.1fs: %s",
                *key,
                delay,
                problem,
                extra=where,
                exc_info=None if known else error,
            )
            return "error"
        self._queue.forget(key)
        if result.requeue_after is None:
            return "success"
        self._queue.add_after(key, result.requeue_after)
        return "requeue_after"
