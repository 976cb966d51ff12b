"""A record that drops attempts tells the same sums as one that keeps them all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config.progress import PhaseSeconds
from florence_operator.api import history
from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.goodput import stage_goodput
from florence_operator.api.history import KEPT_ATTEMPTS, causes, charged, shortened
from florence_operator.api.status import Attempt, JobReference, StageStatus, State
from florence_operator.api.times import timestamp

T = 1_790_000_000.0


def attempt(number: int, cause: Cause) -> Attempt:
    begun = T + 1_000 * number
    return Attempt(
        number=number,
        job_ref=JobReference(kind="PyTorchJob", name=f"c-a{number}"),
        start_time=timestamp(begun),
        admission_time=timestamp(begun + 10),
        pods_ready_time=timestamp(begun + 20),
        last_progress_time=timestamp(begun + 700),
        completion_time=timestamp(begun + 800),
        cause=cause,
        step=number,
        seconds=PhaseSeconds(train=500, kept=300),
        last_lines=("a", "b"),
        gpu_seconds=8.0,
        lost_gpu_seconds=2.0,
    )


def grown(ends: list[Cause], retried: set[int]) -> tuple[StageStatus, StageStatus]:
    """A stage with all of its attempts, and the same as the operator keeps it."""
    whole = kept = StageStatus(name="train", state=State.RECOVERING)
    for number, cause in enumerate(ends, 1):
        if number in retried:
            whole, kept = (
                s.model_copy(update={"first_counted_attempt": number}) for s in (whole, kept)
            )
        new = attempt(number, cause)
        whole = whole.model_copy(update={"attempts": (*whole.attempts, new)})
        kept = shortened(kept.model_copy(update={"attempts": (*kept.attempts, new)}))
    return whole, kept


@given(
    st.lists(st.sampled_from(list(Cause)), min_size=1, max_size=40),
    st.sets(st.integers(1, 40), max_size=3),
    st.integers(1, 20),
)
def test_sums_numbers_and_budgets_outlive_the_attempts(
    ends: list[Cause], retried: set[int], most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(history, "KEPT_ATTEMPTS", most)
        whole, kept = grown(ends, retried)
    assert len(kept.attempts) <= most
    assert kept.last_number == len(ends)
    counted = ends[whole.first_counted_attempt - 1 :]
    assert charged(kept) == Counter(budget_of(cause) for cause in counted)
    assert causes(kept) == Counter(cause.value for cause in ends)
    assert stage_goodput(kept, T + 1e6) == stage_goodput(whole, T + 1e6)
    sums = (kept.dropped.gpu_seconds, kept.dropped.lost_gpu_seconds) if kept.dropped else (0, 0)
    assert sums[0] + sum(a.gpu_seconds for a in kept.attempts) == 8.0 * len(ends)
    assert sums[1] + sum(a.lost_gpu_seconds for a in kept.attempts) == 2.0 * len(ends)
    assert StageStatus.model_validate(kept.wire()) == kept


def test_a_record_does_not_grow_for_ever() -> None:
    _, kept = grown([Cause.PREEMPTED] * 500, set())
    sizes = [len(grown([Cause.PREEMPTED] * n, set())[1].model_dump_json()) for n in (100, 500)]
    assert sizes[1] < 1.05 * sizes[0]
    assert [a.number for a in kept.attempts] == list(range(501 - KEPT_ATTEMPTS, 501))
    assert [bool(a.last_lines) for a in kept.attempts[-4:]] == [False, True, True, True]


def test_a_budget_of_another_version_is_passed_over() -> None:
    _, kept = grown([Cause.NODE_LOST] * (KEPT_ATTEMPTS + 2), set())
    assert kept.dropped is not None
    odd = {**kept.dropped.charged, "patience": 7}
    odd_stage = kept.model_copy(
        update={"dropped": kept.dropped.model_copy(update={"charged": odd})}
    )
    assert charged(odd_stage) == {Budget.INFRASTRUCTURE: KEPT_ATTEMPTS + 2}
