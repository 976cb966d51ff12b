"""Which attempts a stage's record keeps, and what is kept of those that it drops.

A status must not grow without bounds: preempted attempts cost no budget, and may come for ever.
"""

from __future__ import annotations

from collections import Counter

from florence_operator.api.failure import Budget, budget_of
from florence_operator.api.goodput import Goodput, attempt_goodput, summed
from florence_operator.api.status import DroppedAttempts, StageStatus
from florence_operator.api.times import unix

KEPT_ATTEMPTS = 50
KEPT_LOG_LINES = 3
"""Of how many attempts the last lines stay."""


def shortened(stage: StageStatus) -> StageStatus:
    """The record with its newest attempts, and sums of the others; every attempt has ended."""
    old, kept = stage.attempts[:-KEPT_LOG_LINES], stage.attempts[-KEPT_LOG_LINES:]
    short = tuple(a.model_copy(update={"last_lines": ()}) if a.last_lines else a for a in old)
    stage = stage.model_copy(update={"attempts": (*short, *kept)})
    while len(stage.attempts) > KEPT_ATTEMPTS:
        stage = _without_the_oldest(stage)
    return stage


def charged(stage: StageStatus) -> Counter[Budget]:
    """How many attempts each budget has paid for."""
    spent: Counter[Budget] = Counter()
    dropped = stage.dropped
    if dropped is not None and dropped.number >= stage.first_counted_attempt:
        spent.update({Budget(name): n for name, n in dropped.charged.items() if name in _BUDGETS})
    spent.update(
        budget_of(attempt.cause)
        for attempt in stage.attempts
        if attempt.cause is not None and attempt.number >= stage.first_counted_attempt
    )
    return spent


def causes(stage: StageStatus) -> Counter[str]:
    """How often attempts ended for each cause."""
    counted = Counter(stage.dropped.causes) if stage.dropped is not None else Counter[str]()
    counted.update(attempt.cause.value for attempt in stage.attempts if attempt.cause is not None)
    return counted


_BUDGETS = set(Budget)


def _without_the_oldest(stage: StageStatus) -> StageStatus:
    oldest, *others = stage.attempts
    before = stage.dropped or DroppedAttempts(number=0, start_time=oldest.start_time)
    end = unix(oldest.completion_time)
    spent = attempt_goodput(oldest, unix(before.completion_time), end or 0.0)
    paid = Counter(before.charged if before.number >= stage.first_counted_attempt else {})
    ended = Counter(before.causes)
    if oldest.cause is not None:
        ended[oldest.cause.value] += 1
        if oldest.number >= stage.first_counted_attempt:
            paid[budget_of(oldest.cause).value] += 1
    dropped = DroppedAttempts(
        number=oldest.number,
        start_time=before.start_time,
        completion_time=oldest.completion_time,
        causes=dict(ended),
        charged=dict(paid),
        goodput=_without_moment(summed([before.goodput, spent])),
        gpu_seconds=before.gpu_seconds + oldest.gpu_seconds,
        lost_gpu_seconds=before.lost_gpu_seconds + oldest.lost_gpu_seconds,
    )
    return stage.model_copy(update={"attempts": tuple(others), "dropped": dropped})


def _without_moment(goodput: Goodput) -> Goodput:
    return goodput.model_copy(update={"until": None})
