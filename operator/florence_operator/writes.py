"""How often progress alone may be written into the status of jobs."""

from __future__ import annotations

from florence_operator.runtime.store import Key


class WriteBudget:
    """At most one write a job and interval, and so many a second over all jobs.

    What changes more than progress is written at once, and counts.
    """

    def __init__(self, interval: float, per_second: float) -> None:
        self._interval = interval
        self._per_second = per_second
        self._written: dict[Key, float] = {}
        self._next = 0.0

    def wait(self, key: Key, now: float, *, urgent: bool) -> float | None:
        """Seconds until the job's status may be written; None for now, which uses the budget."""
        due = self._written.get(key, -self._interval) + self._interval
        free = self._next
        if not urgent and max(due, free) > now:
            return max(due, free) - now
        self._written[key] = now
        self._next = max(free, now) + (0.0 if urgent else 1 / self._per_second)
        return None

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._written.pop(key, None)
