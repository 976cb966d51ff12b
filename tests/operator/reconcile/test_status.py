from __future__ import annotations

import itertools

import pytest

from florence.config.progress import StageProgress
from florence_operator.api.status import Attempt, JobReference, JobStatus, StageStatus, State
from florence_operator.api.summary import length
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.observe.observation import Observation
from florence_operator.reconcile.stage_view import View, gpu_seconds
from florence_operator.reconcile.status import job_status, phase, summary, urgent
from tests.operator.simulated_cluster import SETTINGS, job_document

JOB = FlorenceJob.model_validate(job_document())
LIVE = (
    Attempt(
        number=1,
        job_ref=JobReference(kind="PyTorchJob", name="c"),
        start_time="2026-01-01T00:00:00Z",
    ),
)


def stage(state: State, name: str = "a", *, live: bool | None = None) -> StageStatus:
    idle = (State.PENDING, State.SUSPENDED, State.SUCCEEDED, State.FAILED, State.RECOVERING)
    going = state not in idle if live is None else live
    return StageStatus(name=name, state=state, attempts=LIVE if going else ())


@pytest.mark.parametrize(
    ("states", "suspended", "expected"),
    [
        (["Succeeded", "Succeeded"], False, "Succeeded"),
        (["Succeeded", "Failed"], False, "Failed"),
        (["Failed", "Running"], False, "Running"),
        (["Failed", "Pending"], False, "Pending"),
        (["Running", "Recovering"], False, "Running"),
        (["Starting", "Recovering"], False, "Recovering"),
        (["Stalled", "Running"], False, "Stalled"),
        (["Starting", "Queued"], False, "Starting"),
        (["Suspended", "Pending"], True, "Suspended"),
        (["Suspended", "Running"], True, "Running"),
    ],
)
def test_the_phase_follows_from_the_stages(
    states: list[str], suspended: bool, expected: str
) -> None:
    stages = [stage(State(state), name) for state, name in zip(states, "ab", strict=True)]
    assert phase(stages, suspended=suspended) == expected
    assert phase(stages[::-1], suspended=suspended) == expected


def test_every_combination_of_states_has_a_phase() -> None:
    for states in itertools.product(State, repeat=3):
        stages = [stage(state, name) for state, name in zip(states, "abc", strict=True)]
        for suspended in (True, False):
            assert isinstance(phase(stages, suspended=suspended), State)


def test_blocked_stages_do_not_keep_a_job_from_having_failed() -> None:
    blocked = StageStatus(name="b", state=State.PENDING, reason="DependencyFailed")
    assert phase([stage(State.FAILED), blocked], suspended=False) is State.FAILED


def test_the_columns_are_about_all_stages() -> None:
    progress = StageProgress(
        step=30, total=100, loss=2.34567, eta_seconds=3780, checkpoint="s3://c"
    )
    going = stage(State.RUNNING).model_copy(update={"progress": progress})
    columns = summary(JOB, [going, stage(State.PENDING, "b"), stage(State.SUCCEEDED, "c")])
    assert (columns.stage, columns.progress, columns.eta) == ("a", "43%", "1h3m")
    assert (columns.loss, columns.checkpoint, columns.attempts) == ("2.3457", "s3://c", 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3780, "1h3m"), (7200, "2h"), (90_000, "1d1h")],
)
def test_lengths_of_time_have_two_units(seconds: int, text: str) -> None:
    assert length(seconds) == text


def test_gpu_seconds_after_the_last_commit_of_a_failed_attempt_are_lost() -> None:
    document = job_document()
    document["spec"]["stages"][0]["resources"] = {"workers": 2, "gpusPerWorker": 4}
    job = FlorenceJob.model_validate(document)
    seen = Observation(job=job, now=0)
    view = View(stage=job.spec.stages[0], seen=seen, settings=SETTINGS)
    attempt = Attempt(
        number=1,
        pods_ready_time="2026-01-01T00:00:00Z",
        last_checkpoint_time="2026-01-01T00:01:00Z",
        ended="2026-01-01T00:01:30Z",
    )
    assert gpu_seconds(view, attempt) == (90 * 8, 0)
    failed = attempt.model_copy(update={"cause": "NodeLost"})
    assert gpu_seconds(view, failed) == (90 * 8, 30 * 8)
    assert gpu_seconds(view, failed.model_copy(update={"last_checkpoint_time": None})) == (720, 720)
    assert gpu_seconds(view, Attempt(number=1, completion_time="2026-01-01T00:00:00Z")) == (0, 0)


def test_conditions_keep_the_time_at_which_they_changed() -> None:
    seen = Observation(job=JOB, now=1000.0)
    stages = (stage(State.RUNNING), stage(State.PENDING, "b"), stage(State.PENDING, "c"))
    first = job_status(seen, JobStatus(), stages)
    later = Observation(job=JOB, now=2000.0)
    assert job_status(later, first, stages).conditions == first.conditions
    recovering = (stage(State.RECOVERING), *stages[1:])
    second = job_status(later, first, recovering)
    found = {c.type: (c.status, c.last_transition_time) for c in second.conditions}
    assert found["Running"] == ("False", "1970-01-01T00:33:20Z")
    assert found["Recovering"] == ("True", "1970-01-01T00:33:20Z")
    third = job_status(Observation(job=JOB, now=3000.0), second, stages)
    assert {c.type: c.status for c in third.conditions} == {
        "Running": "True",
        "Recovering": "False",
    }


def test_progress_alone_is_not_urgent() -> None:
    seen = Observation(job=JOB, now=1000.0)
    stages = (stage(State.RUNNING), stage(State.PENDING, "b"), stage(State.PENDING, "c"))
    first = job_status(seen, JobStatus(), stages)
    moved = (stages[0].model_copy(update={"progress": StageProgress(step=5)}), *stages[1:])
    assert job_status(seen, first, moved) != first
    assert not urgent(first, job_status(seen, first, moved))
    assert urgent(first, job_status(seen, first, (stage(State.STALLED, live=True), *stages[1:])))
