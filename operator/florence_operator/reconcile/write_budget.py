"""How often progress alone may be written into the status of jobs."""

from __future__ import annotations

import math

from florence_operator.runtime.store import Key

_EARLY = 0.5
"""Share of a turn's length by which a timer may ring too early."""
_REMEMBERED = 1024


class WriteBudget:
    """At most one write a job and interval, and so many a second over all jobs.

    Time is divided into turns of one write each. A job that may not be written yet gets the first
    free turn after its interval for itself alone: jobs that wait for the same moment would all be
    looked at in it, one of them be written, and the others wait for the next.

    What changes more than progress is written at once, and counts for the job's interval.
    """

    def __init__(self, interval: float, per_second: float) -> None:
        self._interval = interval
        self._per_second = per_second
        self._written: dict[Key, float] = {}
        self._turns: dict[Key, int] = {}
        """The turn of each job that waits for one, counted from the clock's zero."""
        self._after: dict[int, int] = {}
        """For each turn that is taken, a later one that may be free."""
        self._most = _REMEMBERED

    def wait(self, key: Key, now: float, *, urgent: bool) -> float | None:
        """Seconds until the job's status may be written; None for now, which uses the budget."""
        if not urgent:
            turn = self._turn_of(key, now)
            left = turn / self._per_second - now
            if left > _EARLY / self._per_second:
                self._turns[key] = turn
                return left
        self._turns.pop(key, None)
        self._written[key] = now
        return None

    def turn(self, key: Key, now: float) -> float:
        """Seconds until the job's progress may be written; it has that turn from now on."""
        turn = self._turn_of(key, now)
        self._turns[key] = turn
        return max(0.0, turn / self._per_second - now)

    def forget(self, key: Key) -> None:
        """The job is gone."""
        self._written.pop(key, None)
        self._turns.pop(key, None)

    def _turn_of(self, key: Key, now: float) -> int:
        """The turn that the job has, or gets."""
        known = self._turns.get(key)
        # A turn that is further away than anybody's can be is of a clock that was set back.
        furthest = now + self._interval + (len(self._turns) + 2) / self._per_second
        if known is not None and known / self._per_second <= furthest:
            return known
        due = min(self._written.get(key, -math.inf) + self._interval, now + self._interval)
        turn = self._free(math.ceil(max(due, now) * self._per_second - _EARLY))
        self._after[turn] = turn + 1
        if len(self._after) > self._most:
            begun = math.floor(now * self._per_second)
            self._after = {one: after for one, after in self._after.items() if one >= begun}
            self._most = _REMEMBERED + 2 * len(self._after)
        return turn

    def _free(self, turn: int) -> int:
        """The first turn from this one on that nobody has."""
        passed = []
        while (after := self._after.get(turn)) is not None:
            passed.append(turn)
            turn = after
        for one in passed:
            self._after[one] = turn
        return turn
