"""Budgets and pauses of attempts, the same for an operator and for one machine."""

from __future__ import annotations

import pytest

from florence_jobs.local.outcome import UsualDelays
from florence_operator.api.failure import cause_of_exit
from florence_operator.api.retrying import sequel
from florence_operator.api.run_policy import Retries
from florence_operator.api.status import Attempt, StageStatus
from florence_operator.settings import Failures


def stage(*codes: int, counted: int = 1) -> StageStatus:
    attempts = tuple(Attempt(number=i, cause=cause_of_exit(c)) for i, c in enumerate(codes, 1))
    return StageStatus(name="train", attempts=attempts, first_counted_attempt=counted)


@pytest.mark.parametrize(
    ("codes", "delay", "last"),
    [
        ((75,), 5.0, 3),
        ((75, 137, 75), None, None),
        ((1,), 5.0, 2),
        ((1, 1), None, None),
        ((1, 75, 75), 20.0, 4),
        ((75, 75, 1), 20.0, 4),
        ((2,), None, None),
        ((3,), None, None),
        ((4,), None, None),
    ],
)
def test_each_cause_has_a_budget_of_its_own(
    codes: tuple[int, ...], delay: float | None, last: int | None
) -> None:
    after = sequel(stage(*codes), Retries(infrastructure=2, application=1), UsualDelays())
    assert (after.delay, after.last) == (delay, last)


def test_attempts_before_the_budgets_began_cost_nothing() -> None:
    after = sequel(stage(75, 75, 75, 75, counted=4), Retries(infrastructure=2), UsualDelays())
    assert (after.delay, after.last) == (5.0, 6)


def test_a_machine_waits_as_an_operator_does_by_default() -> None:
    usual, operators = UsualDelays(), Failures()
    assert (usual.first_delay, usual.longest_delay) == (
        operators.first_delay,
        operators.longest_delay,
    )
