"""How often progress alone may be written into the status of jobs."""

from __future__ import annotations

import math
from bisect import bisect_left, insort

from florence_operator.runtime.store import Key

_EARLY = 0.5
"""Share of a turn's length by which a timer may ring too early."""
_REMEMBERED = 1024


class WriteBudget:
    """At most one write a job and interval, and so many a second over all jobs.

    Time is divided into turns of one write each. A job that may not be written yet gets the first
    free turn after its interval for itself alone: jobs that wait for the same moment would all be
    looked at in it, one of them be written, and the others wait for the next.

    What changes more than progress is written at once, and counts for the job's interval; the turn
    that the job waited for is free again.
    """

    def __init__(self, interval: float, per_second: float) -> None:
        self._interval = interval
        self._per_second = per_second
        self._written: dict[Key, float] = {}
        self._turns: dict[Key, int] = {}
        """The turn of each job that waits for one, counted from the clock's zero."""
        self._after: dict[int, int] = {}
        """For each turn that was taken, a later one that may never have been."""
        self._given_back: list[int] = []
        """Turns that were taken and are free again, in order."""
        self._most = _REMEMBERED
        self._latest = -math.inf

    def wait(self, key: Key, now: float, *, urgent: bool) -> float | None:
        """Seconds until the job's status may be written; None for now, which uses the budget."""
        if not urgent:
            turn = self._turn_of(key, now)
            left = turn / self._per_second - now
            if left > _EARLY / self._per_second:
                self._turns[key] = turn
                return left
            self._turns.pop(key, None)
        self._give_back(key)
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
        self._give_back(key)

    def _turn_of(self, key: Key, now: float) -> int:
        """The turn that the job has, or gets."""
        if now < self._latest - self._interval:
            # The clock was set back: by it, all turns are further away than anybody's can be.
            self._turns.clear()
            self._after.clear()
            self._given_back.clear()
        self._latest = now
        known = self._turns.get(key)
        if known is not None:
            return known
        due = min(self._written.get(key, -math.inf) + self._interval, now + self._interval)
        turn = self._take(math.ceil(max(due, now) * self._per_second - _EARLY))
        if len(self._after) > self._most:
            begun = math.floor(now * self._per_second)
            self._after = {one: after for one, after in self._after.items() if one >= begun}
            del self._given_back[: bisect_left(self._given_back, begun)]
            self._most = _REMEMBERED + 2 * len(self._after)
        return turn

    def _give_back(self, key: Key) -> None:
        turn = self._turns.pop(key, None)
        if turn is not None:
            insort(self._given_back, turn)

    def _take(self, wanted: int) -> int:
        """The first turn from this one on that nobody has."""
        turn, place = self._never_taken(wanted), bisect_left(self._given_back, wanted)
        if place < len(self._given_back) and self._given_back[place] < turn:
            return self._given_back.pop(place)
        self._after[turn] = turn + 1
        return turn

    def _never_taken(self, turn: int) -> int:
        """The first turn from this one on that nobody ever had."""
        passed = []
        while (after := self._after.get(turn)) is not None:
            passed.append(turn)
            turn = after
        for one in passed:
            self._after[one] = turn
        return turn
