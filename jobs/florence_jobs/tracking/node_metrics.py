"""How busy the nodes beside the first one are: system metrics in the run of their stage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Protocol

from florence_jobs.tracking.delivery import one_line
from florence_jobs.tracking.events import Event, split_finite
from florence_jobs.tracking.mlflow_run import milliseconds
from florence_jobs.tracking.several import SeveralRecorders

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0
"""A stage's end waits no longer than this for a sample on its way."""


class JoinedRun(Protocol):
    """A run that somebody else makes: :class:`florence_jobs.tracking.mlflow_run.MlflowRun`."""

    def join(self) -> str | None:
        """Its id once it is there."""

    def send_metrics(self, events: list[Event]) -> None:
        """Record events of metrics."""


class NodeMetrics(SeveralRecorders):
    """Records samples of this node, and nothing that rank 0 records.

    A thread of its own waits for the run that rank 0 makes. A server that is away costs samples
    and one warning.

    Args:
        run: of the stage.
        sampler: measures this node.
        interval_s: between samples.
    """

    def __init__(
        self,
        run: JoinedRun,
        sampler: Callable[[], Mapping[str, float]],
        *,
        interval_s: float = 10.0,
        clock_ms: Callable[[], int] = milliseconds,
    ) -> None:
        super().__init__()
        self._run, self._sampler, self._clock = run, sampler, clock_ms
        self._interval = interval_s
        self._step = 0
        self._warned = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._record, name="node-metrics", daemon=True)
        self._thread.start()

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Only the step is of interest: where the samples that follow belong."""
        self._step = step

    def close(self, status: str, problem: str | None = None) -> None:
        """Stop sampling."""
        self._closed.set()
        self._thread.join(CLOSE_SECONDS)

    def _record(self) -> None:
        while not self._closed.wait(self._interval):
            try:
                if self._run.join() is not None:
                    self._run.send_metrics([self._sample()])
            except Exception as error:
                if not self._warned:
                    log.warning("System metrics of this node are missing: %s", one_line(error))
                self._warned = True

    def _sample(self) -> Event:
        values, _ = split_finite(self._sampler())
        return Event("metrics", {"step": self._step, "time": self._clock(), "values": values})
