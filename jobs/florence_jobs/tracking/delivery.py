"""The background thread between a stage and a tracking server that may be slow, wrong or away."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from florence_jobs.tracking.events import Event, EventQueue, Spill
from florence_jobs.tracking.mlflow_run import RejectedError
from florence_jobs.tracking.server import redacted

log = logging.getLogger(__name__)

LONGEST_BACKOFF = 60.0
"""Seconds between attempts to reach a server that stays away."""


class RunSink(Protocol):
    """Where events go: :class:`florence_jobs.tracking.mlflow_run.MlflowRun`."""

    run_id: str | None

    def open(self) -> str:
        """Find or make the run; its id. Cheap when it is open already."""

    def send(self, event: Event) -> None:
        """Record an event other than metrics."""

    def send_metrics(self, events: Sequence[Event]) -> None:
        """Record events of metrics."""


class Delivery:
    """The background thread: takes events from a queue and sends them, or keeps them in a file."""

    def __init__(
        self,
        sink: RunSink,
        spill: Spill,
        queue: EventQueue,
        *,
        where: str,
        interval_s: float,
        sample: Callable[[], Event | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sink, self._spill, self._queue = sink, spill, queue
        self._where, self._interval, self._sample = where, interval_s, sample
        self._monotonic = monotonic
        self._wake = threading.Condition()
        self._closing = False
        self._unsent: list[Event] = []
        self._unsent_lock = threading.Lock()
        self._abandoned = False
        self._away = False
        self._rejected = 0
        self._failures = 0
        self._retry_at = 0.0
        self._replay: list[Event] | None = None
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most this long; keep what could not be sent in the spill file."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        if not self._thread.is_alive():
            return
        with self._unsent_lock:
            # The thread is stuck in a request. If that ends well after all, the same events are
            # sent again from the file one day, which changes nothing: they are idempotent.
            self._abandoned = True
            left = [*self._unsent, *self._queue.take()]
        with contextlib.suppress(OSError):
            self._spill.append(event for event in left if event.kind != "finish")
        log.warning(
            "Tracking at %s did not answer within %.0f s; %d records are kept in %s",
            self._where, timeout_s, len(left), self._spill.path,
        )  # fmt: skip

    def _run(self) -> None:
        interval = 0.0
        while True:
            with self._wake:
                if not self._closing:
                    self._wake.wait(interval)
                closing = self._closing
            interval = self._interval
            events = self._queue.take()
            if dropped := self._queue.take_dropped():
                log.warning("Tracking fell behind: the %d oldest metric records are lost", dropped)
            if (sample := self._sample()) is not None:
                events.append(sample)
            try:
                self._deliver(events, last_try=closing)
            except Exception as error:
                log.warning("Tracking lost %d records: %s", len(events), one_line(error))
            if closing:
                return

    def _deliver(self, events: list[Event], *, last_try: bool) -> None:
        with self._unsent_lock:
            self._unsent = sorted(events, key=lambda event: event.kind == "finish")
        if last_try or self._monotonic() >= self._retry_at:
            try:
                self._sink.open()
                self._send_spilled()
                self._send_unsent()
                self._came_back()
                return
            except Exception as error:
                self._went_away(error)
        with self._unsent_lock:
            if not self._abandoned:
                kept = [event for event in self._unsent if event.kind != "finish"]
                if kept and (refused := self._spill.append(kept)):
                    log.warning("%s is full: %d metric records lost", self._spill.path, refused)
                self._replay = None
                self._unsent = []

    def _send_unsent(self) -> None:
        """Send and forget from the front, so that a failure leaves exactly what was not sent."""
        while self._unsent:
            count = _leading_metrics(self._unsent)
            self._send(self._unsent[:count] if count else self._unsent[:1])
            with self._unsent_lock:
                del self._unsent[: count or 1]

    def _send_spilled(self) -> None:
        if self._replay is None:
            self._replay = self._spill.read()
            if not self._replay:
                return
        total = len(self._replay)
        try:
            while self._replay:
                count = min(_leading_metrics(self._replay), 500)
                self._send(self._replay[:count] if count else self._replay[:1])
                del self._replay[: count or 1]
        finally:
            with self._unsent_lock:
                # Once abandoned, the file holds more than was read from it.
                if len(self._replay) < total and not self._abandoned:
                    self._spill.replace(self._replay)

    def _send(self, events: Sequence[Event]) -> None:
        try:
            if events[0].kind == "metrics":
                self._sink.send_metrics(events)
            else:
                self._sink.send(events[0])
        except RejectedError as error:
            self._rejected += 1
            if self._rejected == 1:
                log.warning("Tracking refused a record (%s): %s", events[0].kind, one_line(error))

    def _went_away(self, error: Exception) -> None:
        self._failures += 1
        delay = min(LONGEST_BACKOFF, self._interval * 2 ** min(self._failures, 10))
        self._retry_at = self._monotonic() + delay
        if not self._away:
            log.warning(
                "Tracking at %s does not work; records are kept in %s: %s",
                self._where, self._spill.path, one_line(error),
            )  # fmt: skip
        self._away = True

    def _came_back(self) -> None:
        if self._away:
            log.info("Tracking at %s works again; all records were delivered", self._where)
        self._away, self._failures, self._retry_at = False, 0, 0.0


def _leading_metrics(events: Sequence[Event]) -> int:
    """How many events at the front are metrics."""
    for count, event in enumerate(events):
        if event.kind != "metrics":
            return count
    return len(events)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks and passwords, at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return redacted(text[:300])
