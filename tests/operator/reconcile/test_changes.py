"""What changed meanwhile: the spec of a job, or the version that wrote its status."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.api.failure import Cause
from florence_operator.api.status import State
from florence_operator.api.v1alpha1 import FlorenceJob, Resources
from tests.operator.reconcile.test_beliefs import causes, settle, stage
from tests.operator.reconcile.test_decide import cluster, running
from tests.operator.simulated_operator import Cluster, job_document


def resized(subject: Cluster, workers: int) -> None:
    first, *others = subject.job.spec.stages
    first = first.model_copy(update={"resources": Resources(workers=workers)})
    spec = subject.job.spec.model_copy(update={"stages": (first, *others)})
    subject.job = subject.job.model_copy(update={"spec": spec})


def test_a_child_of_an_older_spec_is_made_anew() -> None:
    subject = cluster()
    subject.reconcile(crash=1)  # the child, and no status
    (old,) = subject.children.values()
    resized(subject, 4)
    settle(subject)
    subject.scheduler()
    subject.reconcile()
    (new,) = subject.children.values()
    assert (new.name, new.attempt) == (old.name, 1)
    assert new.uid != old.uid
    assert len(subject.pods) == 4
    assert stage(subject).state is State.RUNNING


def test_a_child_of_the_same_spec_is_kept() -> None:
    subject = cluster()
    subject.reconcile(crash=1)
    before = dict(subject.children)
    subject.policy(deadline="1d")
    settle(subject)
    assert subject.children == before


def test_that_a_finished_job_was_changed_is_seen() -> None:
    subject = running()
    for pod in list(subject.pods.values()):
        subject.end(pod, 0)
    settle(subject)
    assert subject.status.phase is State.SUCCEEDED
    document = job_document()
    more = FlorenceJob.model_validate(document).spec
    metadata = subject.job.metadata.model_copy(update={"generation": 7})
    subject.job = subject.job.model_copy(update={"spec": more, "metadata": metadata})
    subject.reconcile()
    assert subject.status.observed_generation == 7
    assert subject.status.phase is State.SUCCEEDED
    assert not subject.reconcile().changed


# What another version wrote.


def with_stage(subject: Cluster, **fields: Any) -> None:
    first, *others = subject.status.stages
    status = subject.status.model_copy(
        update={"stages": (first.model_copy(update=fields), *others)}
    )
    subject.job = subject.job.model_copy(update={"status": status})


def test_a_cause_of_another_version_stays_in_the_history() -> None:
    subject = running(retries={"infrastructure": 5})
    subject.end(next(iter(subject.pods.values())), 75)
    subject.now += 5
    settle(subject)
    first, *others = stage(subject).attempts
    newer = first.model_copy(update={"cause": Cause("Gremlins")})
    with_stage(subject, attempts=(newer, *others))
    subject.now += 10
    settle(subject)
    assert [cause and cause.value for cause in causes(subject)] == ["Gremlins", None]


def test_a_stage_in_a_state_of_another_version_is_let_alone() -> None:
    subject = cluster()
    subject.reconcile()
    ended = {"completion_time": "1970-01-12T13:46:40Z"}
    attempt = stage(subject).attempts[0].model_copy(update=ended)
    with_stage(subject, state=State("Cancelled"), message="by hand", attempts=(attempt,))
    for _ in range(3):
        subject.now += 1000
        subject.reconcile()
    assert (stage(subject).state.value, stage(subject).message) == ("Cancelled", "by hand")
    assert len(stage(subject).attempts) == 1


def test_an_attempt_in_a_state_of_another_version_is_watched_over() -> None:
    subject = running()
    with_stage(subject, state=State("Debugging"))
    subject.reconcile()
    assert stage(subject).state.value == "Debugging"
    assert subject.status.phase.value == "Debugging"
    for pod in list(subject.pods.values()):
        subject.end(pod, 0)
    subject.reconcile()
    assert subject.status.phase is State.SUCCEEDED


def test_a_job_in_a_phase_of_another_version_is_let_alone() -> None:
    subject = cluster()
    subject.reconcile(crash=1)
    status = subject.status.model_copy(update={"phase": State("Archived")})
    subject.job = subject.job.model_copy(update={"status": status})
    decision = subject.reconcile()
    assert (decision.changed, decision.starts, decision.delete) == (False, (), ())


def test_fields_and_conditions_of_another_version_are_written_back() -> None:
    subject = running()
    document = subject.status.stored()
    document["fromTheNextVersion"] = {"stalled": 3}
    document["stages"][0]["attempts"][0]["uid"] = "u"
    document["conditions"].append(
        {"type": "Novel", "status": "True", "reason": "R", "lastTransitionTime": "x"}
    )
    status = type(subject.status).model_validate(document)
    subject.job = subject.job.model_copy(update={"status": status})
    for pod in list(subject.pods.values()):
        subject.end(pod, 0)
    subject.reconcile()
    stored = subject.status.stored()
    assert stored["phase"] == "Succeeded"
    assert stored["fromTheNextVersion"] == {"stalled": 3}
    assert stored["stages"][0]["attempts"][0]["uid"] == "u"
    assert "Novel" in [condition["type"] for condition in stored["conditions"]]


def test_a_look_at_an_attempt_does_not_check_whether_the_job_could_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    subject = running()

    def unfit(*_: Any) -> str | None:
        raise AssertionError("nothing is about to start")

    monkeypatch.setattr("florence_operator.reconcile.decide.unfit", unfit)
    subject.report("a", 1, 10)
    subject.reconcile()
    assert stage(subject).state is State.RUNNING


def test_a_stage_beside_one_at_work_does_not_start_from_a_spec_that_cannot_run() -> None:
    subject = running(2)
    spec = subject.job.spec.model_copy(update={"image": None})
    subject.job = subject.job.model_copy(update={"spec": spec})
    for pod in list(subject.pods.values()):
        subject.end(pod, 0)
    decision = subject.reconcile()
    assert not decision.starts
    assert subject.status.stages[1].reason == "InvalidSpec"
