"""When a failed attempt is tried again: what pays for it, and how long that takes.

The operator and the runs of one machine follow the same rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from florence_operator.api.duration import seconds
from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.history import charged
from florence_operator.api.run_policy import Retries
from florence_operator.api.status import Attempt, StageStatus


class Delays(Protocol):
    """How long failed attempts wait, as durations such as ``5s``."""

    @property
    def first_delay(self) -> str:
        """Time before the second attempt."""

    @property
    def longest_delay(self) -> str:
        """Time before any attempt: it doubles up to this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequel:
    """What follows an attempt that failed."""

    delay: float | None
    """Seconds until the next attempt; None when there is none."""
    reason: str
    message: str
    last: int | None = None
    """Number of the last attempt that the budget of this failure allows; None where none pays."""


def sequel(stage: StageStatus, retries: Retries, delays: Delays) -> Sequel:
    """What follows the last attempt of a stage, which has just failed."""
    attempts = stage.attempts
    last = attempts[-1]
    assert last.cause is not None
    budget = budget_of(last.cause)
    if budget is Budget.FINAL:
        return Sequel(delay=None, reason=last.cause, message="it is not tried again")
    if budget is Budget.FREE:
        return Sequel(
            delay=_pause(attempts, delays),
            reason=last.cause,
            message=f"attempt {last.number + 1} follows at no cost to the budgets",
        )
    spent = charged(stage)[budget]
    granted = retries.application if budget is Budget.APPLICATION else retries.infrastructure
    if spent > granted:
        return Sequel(
            delay=None,
            reason="BudgetExhausted",
            message=f"the budget of {granted} {budget} retries is used up ({last.cause})",
        )
    wait = delay(attempts, stage.first_counted_attempt, delays)
    return Sequel(
        delay=wait,
        reason=last.cause,
        message=f"attempt {last.number + 1} follows after {wait:g} s; "
        f"{granted - spent} of {granted} {budget} retries left",
        last=last.number + 1 + granted - spent,
    )


def _pause(attempts: Sequence[Attempt], delays: Delays) -> float:
    """Seconds before an attempt that costs nothing: none, unless they keep ending before they run.

    Whoever takes the place of each of them at once would be asked for the next one without end.
    """
    streak = 0
    for attempt in reversed(attempts):
        if attempt.cause is not Cause.PREEMPTED or attempt.pods_ready_time is not None:
            break
        streak += 1
    if streak < 2:
        return 0.0
    return _doubled(streak - 2, delays)


def delay(attempts: Sequence[Attempt], first_counted_attempt: int, delays: Delays) -> float:
    """Seconds before the next attempt: doubled for each failure in a row without a new commit."""
    streak = 0
    for attempt in reversed(attempts):
        if attempt.number < first_counted_attempt or attempt.cause is None:
            break
        if budget_of(attempt.cause) is Budget.FREE:
            continue
        streak += 1
        if attempt.last_checkpoint_time is not None:
            break
    return _doubled(max(streak - 1, 0), delays)


def _doubled(times: int, delays: Delays) -> float:
    most = seconds(delays.longest_delay)
    return float(min(seconds(delays.first_delay) * 2 ** min(times, 30), most))
