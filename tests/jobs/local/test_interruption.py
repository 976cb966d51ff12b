from __future__ import annotations

import pytest

from florence_jobs.local.interruption import REASON, in_motion, interrupted
from florence_jobs.recipes.digits import digits
from florence_operator.api import FlorenceJob, JobStatus, StageStatus, State
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt

ENDED = "2026-01-01T00:00:00Z"


def job(phase: State, *stages: StageStatus) -> FlorenceJob:
    return digits().model_copy(update={"status": JobStatus(phase=phase, stages=stages)})


def stage(name: str, state: State, *attempts: Attempt) -> StageStatus:
    return StageStatus(name=name, state=state, attempts=attempts)


def test_the_stage_at_work_failed_and_its_attempt_was_killed() -> None:
    done = stage("mixed", State.SUCCEEDED, Attempt(number=1, completion_time="x", exit_code=0))
    busy = stage("clean", State.RUNNING, Attempt(number=1, start_time="x"))
    rest = stage("zero-shot", State.PENDING)
    found = interrupted(job(State.RUNNING, done, busy, rest), owner=77, ended=ENDED).status
    assert found is not None
    assert (found.phase, found.completion_time) == (State.FAILED, ENDED)
    assert found.stages[0] == done
    assert found.stages[2] == rest
    failed = found.stages[1]
    assert (failed.state, failed.reason) == (State.FAILED, REASON)
    assert failed.attempts[0].cause is Cause.KILLED
    assert "(77) is gone" in (failed.attempts[0].message or "")


def test_between_attempts_only_the_stage_failed() -> None:
    ended = Attempt(
        number=1, completion_time="x", exit_code=75, cause=Cause.TRY_AGAIN, message="no answer"
    )
    waiting = stage("mixed", State.RECOVERING, ended).model_copy(update={"next_attempt_time": "y"})
    found = interrupted(job(State.RUNNING, waiting), owner=None, ended=ENDED).status
    assert found is not None
    (failed,) = found.stages
    assert (failed.state, failed.next_attempt_time, failed.attempts) == (
        State.FAILED,
        None,
        (ended,),
    )


@pytest.mark.parametrize("phase", [State.PENDING, State.SUCCEEDED, State.FAILED, State.SUSPENDED])
def test_a_job_that_nobody_has_to_run_is_left_as_it_is(phase: State) -> None:
    one = job(phase, stage("mixed", State.PENDING))
    assert not in_motion(one)
    assert interrupted(one, owner=1, ended=ENDED) == one
    assert interrupted(digits(), owner=1, ended=ENDED) == digits()
