"""``why`` of a job on this machine."""

from __future__ import annotations

from typing import Any

import pytest

from florence.config.progress import StageProgress
from florence_jobs.recipes.digits import digits
from florence_operator.api import JobStatus, StageStatus, State
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt
from florencectl.explain.local_why import why
from florencectl.explain.snapshot import Snapshot

NOW = 1767225720.0  # 2026-01-01T00:02:00Z
BEGUN = "2026-01-01T00:00:00Z"
AT_20 = StageProgress(step=25, total=400, checkpoint_step=20)


def told(phase: State, *stages: StageStatus, **status: Any) -> str:
    found = JobStatus(phase=phase, stages=stages, **status)
    job = digits().model_copy(update={"status": found})
    return why(Snapshot(job=job.wire(), now=NOW))


def stage(state: State, **fields: Any) -> StageStatus:
    return StageStatus(name="mixed", state=state, **fields)


def attempt(number: int = 1, **fields: Any) -> Attempt:
    return Attempt(number=number, start_time=BEGUN, **fields)


def test_at_work_it_says_how_far_and_what_happened_before() -> None:
    before = attempt(completion_time=BEGUN, cause=Cause.KILLED, exit_code=137)
    text = told(State.RUNNING, stage(State.RUNNING, attempts=(before, attempt(2)), progress=AT_20))
    assert text == (
        "Job 'digits' runs on this machine: stage 'mixed' (attempt 2) has been at work for 2m00s. "
        "Step 25 of 400 (6 %). The newest checkpoint is of step 20. Earlier attempts ended: "
        "1 Killed."
    )


def test_between_attempts_it_says_when_the_next_begins() -> None:
    ended = {"completion_time": BEGUN, "cause": Cause.TRY_AGAIN, "exit_code": 75}
    failed = attempt(**ended, message="s3: no answer")
    recovering = stage(
        State.RECOVERING, attempts=(failed,), next_attempt_time="2026-01-01T00:02:20Z"
    )
    text = told(State.RECOVERING, recovering)
    assert "stage 'mixed' is tried again" in text
    assert "s3: no answer" in text
    assert "The next attempt starts in 20s." in text


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (Cause.INVALID_CONFIGURATION, "change what the message names and submit it again"),
        (Cause.UNUSABLE_DATA, "repair the data or its URI; then 'florencectl resume digits"),
        (Cause.KILLED, "What to do: 'florencectl resume digits --local' goes on from its last"),
    ],
)
def test_a_failure_has_its_remedy(
    cause: Cause, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("florencectl.program.program_to_type", lambda: "florencectl")
    failed = attempt(completion_time=BEGUN, cause=cause, message="what happened")
    text = told(State.FAILED, stage(State.FAILED, attempts=(failed,), progress=AT_20))
    assert "failed in stage 'mixed' after 1 attempt" in text
    assert "what happened" in text
    assert "Its newest checkpoint is of step 20." in text
    assert words in text
    assert "pod" not in text


def test_stopped_done_and_not_begun() -> None:
    stopped = told(State.SUSPENDED, stage(State.SUSPENDED, attempts=(attempt(),), progress=AT_20))
    assert "is stopped in stage 'mixed'. Its newest checkpoint is of step 20. '" in stopped
    done = stage(State.SUCCEEDED, metrics={"top1": 0.5}, model="/m")
    text = told(State.SUCCEEDED, done, start_time=BEGUN, completion_time="2026-01-01T00:01:00Z")
    assert "succeeded in 1m00s. Results of stage 'mixed': top1 0.5. The model is /m." in text
    assert "has not begun" in told(State.PENDING)
