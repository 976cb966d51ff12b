"""How often progress is written, and how often jobs are looked at for it."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from florence_operator.reconcile.write_budget import WriteBudget
from florence_operator.runtime.store import Key

INTERVAL, PER_SECOND, REPORT_EVERY = 15.0, 20.0, 5.0
A, B = Key("ns", "a"), Key("ns", "b")


class Running:
    """Jobs that run: each is looked at in its turn, which its reports ask for.

    Args:
        jobs: how many.
        restarted: moments at which the state of all of them changes, which is written at once.
    """

    def __init__(self, jobs: int, restarted: Sequence[float] = ()) -> None:
        self.budget = WriteBudget(INTERVAL, PER_SECOND)
        self.looks = 0
        self.writes: Counter[int] = Counter()
        self._agenda: list[tuple[float, int, str]] = []
        self._appointed: dict[int, float] = {}
        source = random.Random(0)
        for job in range(jobs):
            heapq.heappush(self._agenda, (source.random() * REPORT_EVERY, job, "report"))
            for moment in restarted:
                heapq.heappush(self._agenda, (moment, job, "state"))

    def run(self, seconds: float) -> None:
        while self._agenda[0][0] < seconds:
            now, job, why = heapq.heappop(self._agenda)
            if why == "report":
                heapq.heappush(self._agenda, (now + REPORT_EVERY, job, "report"))
                self._appoint(job, now + self.budget.turn(Key("ns", str(job)), now))
                continue
            if why == "state":
                assert self.budget.wait(Key("ns", str(job)), now, urgent=True) is None
                continue
            if self._appointed.get(job) != now:
                continue  # an earlier one has taken its place
            else:
                del self._appointed[job]
            self._look(job, now)

    def _look(self, job: int, now: float) -> None:
        self.looks += 1
        assert self.looks < 1_000_000, "a storm"
        later = self.budget.wait(Key("ns", str(job)), now, urgent=False)
        if later is None:
            self.writes[job] += 1
        else:
            self._appoint(job, now + later)

    def _appoint(self, job: int, when: float) -> None:
        if when < self._appointed.get(job, float("inf")):
            self._appointed[job] = when
            heapq.heappush(self._agenda, (when, job, "look"))


@pytest.mark.parametrize("jobs", [100, 300, 1000, 3000])
def test_a_write_costs_one_look_however_many_reports_come(jobs: int) -> None:
    seconds = 300.0
    running = Running(jobs)
    running.run(seconds)
    writes = running.writes.total()
    assert running.looks <= 1.05 * writes + jobs
    assert writes <= PER_SECOND * seconds + 1
    # What may be written is: by the interval of each job, or by the rate of all.
    assert writes > 0.85 * min(jobs / INTERVAL, PER_SECOND) * seconds
    # Everybody gets their turn.
    assert max(running.writes.values()) - min(running.writes[job] for job in range(jobs)) <= 2


def test_jobs_that_restart_together_are_all_written_of_again() -> None:
    """What was written at once leaves turns that nobody takes; nobody may lose theirs for that."""
    running = Running(1000, restarted=(10.0, 12.0, 14.0, 16.0))
    running.run(40.0)
    before = running.writes.copy()
    running.run(140.0)
    assert (running.writes - before).total() > 0.85 * PER_SECOND * 100
    assert len(running.writes - before) == 1000


def test_a_turn_that_is_not_yet_is_in_nobodys_way() -> None:
    budget = WriteBudget(INTERVAL, PER_SECOND)
    assert budget.wait(A, 100.0, urgent=False) is None
    assert budget.wait(A, 101.0, urgent=False) == pytest.approx(14.0, abs=0.1)
    assert budget.wait(B, 102.0, urgent=False) is None
    # Asked again, it has the same turn.
    assert budget.wait(A, 110.0, urgent=False) == pytest.approx(5.0, abs=0.1)
    assert budget.wait(A, 115.1, urgent=False) is None


def test_two_that_come_at_once_get_two_turns() -> None:
    budget = WriteBudget(INTERVAL, 2.0)
    assert budget.wait(A, 100.0, urgent=False) is None
    later = budget.wait(B, 100.0, urgent=False)
    assert later == pytest.approx(0.5)
    assert budget.wait(Key("ns", "c"), 100.0, urgent=False) == pytest.approx(1.0)
    # A timer that rings a little early is no reason for another look.
    assert budget.wait(B, 100.0 + later - 1e-3, urgent=False) is None


def test_what_is_urgent_waits_for_nobody_and_counts_for_the_job() -> None:
    budget = WriteBudget(INTERVAL, 1.0)
    assert budget.wait(A, 100.0, urgent=False) is None
    assert budget.wait(A, 101.0, urgent=False) is not None
    assert budget.wait(A, 102.0, urgent=True) is None
    assert budget.wait(A, 115.5, urgent=False) == pytest.approx(1.5, abs=0.5)


def test_a_clock_that_was_set_back_holds_nothing_up_for_long() -> None:
    budget = WriteBudget(INTERVAL, PER_SECOND)
    assert budget.wait(A, 10_000.0, urgent=False) is None
    assert budget.wait(A, 10_001.0, urgent=False) is not None
    assert budget.wait(A, 100.0, urgent=False) == pytest.approx(INTERVAL, abs=0.1)
    assert budget.wait(A, 116.0, urgent=False) is None


def test_it_remembers_only_what_is_to_come() -> None:
    budget = WriteBudget(INTERVAL, PER_SECOND)
    for number in range(50_000):
        key = Key("ns", str(number % 100))
        budget.wait(key, 1000.0 + number * 0.05, urgent=False)
    held = [value for value in vars(budget).values() if isinstance(value, dict)]
    assert max(map(len, held)) < 5_000
    assert budget.wait(A, 1e6, urgent=False) is None
