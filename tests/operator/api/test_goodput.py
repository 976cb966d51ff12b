"""What time went into: by examples, and every second once whatever the record says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config.progress import PhaseSeconds
from florence_operator.api.failure import Cause
from florence_operator.api.goodput import (
    CATEGORIES,
    Goodput,
    attempt_goodput,
    stage_goodput,
    summed,
)
from florence_operator.api.status import Attempt, JobReference, StageStatus, State
from florence_operator.api.times import timestamp, unix

T = 1_790_000_000.0
CHILD = JobReference(kind="PyTorchJob", name="c")


def at(seconds: float | None) -> str | None:
    return None if seconds is None else timestamp(T + seconds)


def attempt(number: int = 1, **moments: Any) -> Attempt:
    """An attempt whose times are given in seconds since T."""
    given = {k: at(v) if k.endswith("_time") else v for k, v in moments.items()}
    return Attempt(**{"number": number, "job_ref": CHILD, **given})


def spent(stage: StageStatus, now: float) -> dict[str, int]:
    found = stage_goodput(stage, T + now)
    assert found is not None
    return {name: seconds for name, seconds in found.seconds.items() if seconds}


def stage(*attempts: Attempt, state: State = State.RUNNING, **fields: Any) -> StageStatus:
    return StageStatus(name="train", state=state, attempts=attempts, **fields)


LOST = attempt(
    start_time=0,
    admission_time=100,
    pods_ready_time=130,
    last_progress_time=1130,
    last_checkpoint_time=900,
    completion_time=1200,
    cause=Cause.NODE_LOST,
    step=80,
    seconds=PhaseSeconds(train=800, data_wait=50, checkpoint=30, evaluate=20, kept=600),
)


def test_a_failed_attempt_keeps_what_its_commits_hold() -> None:
    assert spent(stage(LOST, state=State.FAILED), 5_000) == {
        "queued": 100,
        "starting": 30 + 100,  # until the pods ran, and what rank 0 did not count
        "checkpoint": 30,
        "data_stall": 50,
        "recompute": 200,
        "productive": 620,
        "restart": 70,  # until the loss was noticed
    }


def test_without_rank_0s_count_the_last_commit_divides() -> None:
    mute = LOST.model_copy(update={"seconds": None})
    assert spent(stage(mute, state=State.FAILED), 5_000) == {
        "queued": 100,
        "starting": 30,
        "productive": 770,
        "recompute": 230,
        "restart": 70,
    }


def test_the_next_attempts_way_to_its_first_step_is_a_restart() -> None:
    again = attempt(
        2,
        start_time=1260,
        admission_time=1460,
        pods_ready_time=1480,
        last_progress_time=1990,
        step=100,
        seconds=PhaseSeconds(train=500, kept=0),
    )
    found = spent(stage(LOST, again), 2_000)
    assert found["restart"] == 70 + 60 + 20 + 10
    assert found["queued"] == 100 + 200
    assert found["productive"] == 620 + 500 + 10
    assert sum(found.values()) == 2_000


def test_a_stall_counts_from_the_last_progress() -> None:
    hung = LOST.model_copy(update={"cause": Cause.STALLED, "completion_time": at(1900)})
    assert spent(stage(hung, state=State.FAILED), 9_000)["stalled"] == 770
    going = hung.model_copy(
        update={"cause": None, "completion_time": None, "stopping": Cause.STALLED}
    )
    assert spent(stage(going), 2_130)["stalled"] == 1_000


def test_time_that_nobody_wanted_is_suspended() -> None:
    stopped = LOST.model_copy(update={"cause": Cause.SUSPENDED})
    paused = stage(stopped, state=State.SUSPENDED, suspended_time=at(1200))
    assert spent(paused, 11_200)["suspended"] == 70 + 10_000
    retried = attempt(2, start_time=11_300, admission_time=11_300, suspended_seconds=10_000)
    assert spent(stage(stopped, retried), 11_300)["suspended"] == 70 + 10_000
    assert spent(stage(stopped, retried), 11_300)["restart"] == 100


def test_what_starts_has_no_productive_second() -> None:
    begun = attempt(start_time=0, admission_time=0, pods_ready_time=10)
    assert spent(stage(begun), 500) == {"starting": 500}
    told = begun.model_copy(update={"last_progress_time": at(400), "step": 0})
    assert spent(stage(told), 500) == {"starting": 500}
    waits = attempt(start_time=0)
    assert spent(stage(waits, state=State.QUEUED), 500) == {"queued": 500}


def test_on_one_machine_there_is_no_queue() -> None:
    here = attempt(
        start_time=0, completion_time=60, exit_code=0, last_progress_time=50, step=9
    ).model_copy(update={"job_ref": None, "seconds": PhaseSeconds(train=40)})
    done = stage(here, state=State.SUCCEEDED)
    assert spent(done, 99) == {"starting": 10, "productive": 50}


def test_the_fraction_is_of_the_time_in_which_resources_were_held() -> None:
    assert Goodput(productive=30, restart=70, queued=900, suspended=50).fraction == 0.3
    assert Goodput(queued=10).fraction is None
    assert stage_goodput(stage(), T) is None


def test_sums_keep_the_newest_moment() -> None:
    parts = [Goodput(productive=1, until=at(5)), Goodput(stalled=2, until=at(7)), Goodput()]
    assert summed(parts) == Goodput(productive=1, stalled=2, until=at(7))


MOMENT = st.none() | st.integers(0, 4_000)
SECONDS = st.floats(0, 5_000)


@st.composite
def records(draw: st.DrawFn) -> tuple[StageStatus, float]:
    """Any record, in whatever order its times are: clocks are set, versions differ."""
    attempts, clock = [], 0
    for number in range(1, draw(st.integers(1, 5)) + 1):
        clock += draw(st.integers(0, 500))
        counted = st.builds(
            PhaseSeconds,
            train=SECONDS,
            data_wait=SECONDS,
            checkpoint=SECONDS,
            evaluate=SECONDS,
            kept=SECONDS,
        )
        begun = clock
        clock += draw(st.integers(0, 3_000))
        made = attempt(
            number,
            start_time=begun,
            admission_time=draw(MOMENT),
            pods_ready_time=draw(MOMENT),
            last_progress_time=draw(MOMENT),
            last_checkpoint_time=draw(MOMENT),
            completion_time=clock,
            cause=draw(st.none() | st.sampled_from(list(Cause))),
            step=draw(st.none() | st.integers(0, 100)),
            seconds=draw(st.none() | counted),
            suspended_seconds=draw(SECONDS),
        )
        attempts.append(made)
    live = draw(st.booleans())
    if live:
        attempts[-1] = attempts[-1].model_copy(update={"completion_time": None, "cause": None})
    fields = {"suspended_time": at(draw(MOMENT)), "suspended_seconds": draw(SECONDS)}
    state = State.RUNNING if live else draw(st.sampled_from([State.FAILED, State.RECOVERING]))
    return stage(*attempts, state=state, **fields), float(clock + draw(st.integers(0, 1_000)))


@given(records())
def test_every_second_has_one_name(record: tuple[StageStatus, float]) -> None:
    subject, now = record
    found = stage_goodput(subject, T + now)
    assert found is not None
    begun, until = unix(subject.attempts[0].start_time), unix(found.until)
    assert begun is not None
    assert until is not None
    assert found.total == until - begun
    assert all(seconds >= 0 for seconds in found.seconds.values())
    last = unix(subject.attempts[-1].completion_time)
    if subject.state.terminal and last is not None:
        failed = unix(subject.suspended_time) or last
        assert until == max(last, failed)
    else:
        assert found.until == at(now)
    assert set(found.seconds) == set(CATEGORIES)


@given(records())
def test_parts_are_those_of_the_attempts(record: tuple[StageStatus, float]) -> None:
    subject, now = record
    fresh = {"state": State.FAILED, "suspended_time": None, "suspended_seconds": 0.0}
    ended = subject.model_copy(update=fresh)
    end, parts = None, []
    for each in ended.attempts:
        parts.append(attempt_goodput(each, end, T + now))
        end = unix(each.completion_time)
    found = stage_goodput(ended, T + now)
    assert found is not None
    assert found.seconds == summed(parts).seconds


@pytest.mark.parametrize("cause", list(Cause))
def test_whatever_ended_it_no_lost_step_is_productive(cause: Cause) -> None:
    ended = LOST.model_copy(update={"cause": cause})
    found = spent(stage(ended, state=State.FAILED), 5_000)
    assert (found["productive"], found["recompute"]) == (620, 200)
