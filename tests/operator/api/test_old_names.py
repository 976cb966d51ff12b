"""One release back and forth: its names beside ours, and its word where it had the last one."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from florence_operator.api import old_names
from florence_operator.api.status import Attempt, JobReference, JobStatus, StageStatus, State

TIMES = st.none() | st.integers(0, 59).map(lambda second: f"2026-01-01T00:00:{second:02}Z")


@st.composite
def statuses(draw: st.DrawFn) -> JobStatus:
    attempts = tuple(
        Attempt(
            number=number,
            job_ref=JobReference(kind="PyTorchJob", name=f"c-a{number}"),
            start_time="2026-01-01T00:00:00Z",
            admission_time=draw(TIMES),
            pods_ready_time=draw(TIMES),
            last_progress_time=draw(TIMES),
            last_checkpoint_time=draw(TIMES),
            completion_time=draw(TIMES),
        )
        for number in range(1, draw(st.integers(0, 3)) + 1)
    )
    stage = StageStatus(
        name="train",
        state=draw(st.sampled_from(State)),
        attempts=attempts,
        next_attempt_time=draw(TIMES),
        first_counted_attempt=draw(st.integers(1, 4)),
    )
    return JobStatus(stages=(stage,), start_time=draw(TIMES), completion_time=draw(TIMES))


def without(document: Any, names: set[str]) -> Any:
    """The document without these fields, wherever they are."""
    if isinstance(document, dict):
        return {k: without(v, names) for k, v in document.items() if k not in names}
    return [without(v, names) for v in document] if isinstance(document, list) else document


NEW = {*old_names.JOB, *old_names.STAGE, *old_names.ATTEMPT, "jobRef"}
OLD = {*old_names.JOB.values(), *old_names.STAGE.values(), *old_names.ATTEMPT.values(), "child"}


@given(statuses())
def test_a_status_is_read_as_it_was_whichever_release_wrote_it(status: JobStatus) -> None:
    stored = status.stored()
    for document in (stored, without(stored, NEW), without(stored, OLD)):
        assert JobStatus.model_validate(document) == status


@given(statuses(), st.data())
def test_what_the_older_operator_wrote_meanwhile_is_the_newer_word(
    status: JobStatus, data: st.DataObject
) -> None:
    document = copy.deepcopy(status.stored())
    for attempt in document["stages"][0].get("attempts", ()):
        for new, old in old_names.ATTEMPT.items():
            if new == "startTime":
                continue
            # It keeps the name that it does not know, and writes, or clears, its own.
            attempt.pop(old, None)
            if (moment := data.draw(TIMES)) is not None:
                attempt[old] = moment
    found = JobStatus.model_validate(document)
    for attempt, told in zip(
        document["stages"][0].get("attempts", ()), found.stages[0].attempts, strict=True
    ):
        stored = told.wire()
        assert {n: stored.get(n) for n in old_names.ATTEMPT} == {
            n: attempt.get(old) for n, old in old_names.ATTEMPT.items()
        }


def test_a_child_that_the_older_operator_made_is_a_pytorchjob() -> None:
    stale = {"number": 2, "child": "c-a2", "jobRef": {"kind": "TrainJob", "name": "c-a1"}}
    found = Attempt.model_validate(stale).job_ref
    assert found == JobReference(kind="PyTorchJob", name="c-a2")
    same = {
        "number": 2,
        "child": "c-a2",
        "jobRef": {"kind": "TrainJob", "name": "c-a2", "uid": "u"},
    }
    assert Attempt.model_validate(same).job_ref == JobReference(
        kind="TrainJob", name="c-a2", uid="u"
    )
