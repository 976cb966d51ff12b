"""Two kinds of children: what a change from one to the other does, and half of a gang."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from florence_operator.api.child_kinds import PYTORCH_JOB, TRAIN_JOB
from florence_operator.api.failure import Cause
from florence_operator.api.status import State
from florence_operator.build.names import child_name
from tests.operator.reconcile.test_decide import cluster
from tests.operator.simulated_operator import Cluster

BOTH = ("PyTorchJob", "TrainJob")
NAMES = {kind.name: child_name("j", "a", 1, kind) for kind in (PYTORCH_JOB, TRAIN_JOB)}


def running(*served: str, **policy: Any) -> Cluster:
    subject = cluster(**policy)
    subject.served = served
    subject.reconcile()
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    assert subject.status.phase is State.RUNNING
    return subject


def kinds(subject: Cluster) -> list[str]:
    return [a.job_ref.kind for a in subject.status.stages[0].attempts if a.job_ref is not None]


@pytest.mark.parametrize("kind", BOTH)
def test_an_attempt_says_of_which_kind_its_child_is(kind: str) -> None:
    subject = running(*BOTH, backend=kind)
    (attempt,) = subject.status.stages[0].attempts
    assert attempt.job_ref is not None
    child = subject.children[NAMES[kind]]
    assert (attempt.job_ref.kind, attempt.job_ref.name) == (kind, child.name)
    assert attempt.job_ref.uid == child.uid


def test_a_live_child_is_followed_to_its_end_and_the_next_one_is_of_the_new_kind() -> None:
    subject = running(*BOTH, backend="PyTorchJob")
    (child,) = subject.children.values()
    subject.policy(backend="TrainJob")
    for _ in range(3):
        subject.reconcile()
        subject.now += 60
        subject.report("a", 1, 5)
    assert subject.children == {child.name: child}
    assert kinds(subject) == ["PyTorchJob"]
    pod = next(iter(subject.pods.values()))
    subject.end(pod, 75)
    for _ in range(12):
        subject.reconcile()
        subject.training_operator()
        subject.kubelets()
        subject.scheduler()
        subject.check()
        subject.now += 3
    assert kinds(subject) == ["PyTorchJob", "TrainJob"]
    assert [child.kind for child in subject.children.values()] == ["TrainJob"]
    assert {pod.attempt for pod in subject.pods.values()} == {2}


def test_a_child_that_nobody_recorded_is_not_doubled_by_one_of_the_other_kind() -> None:
    """The operator dies between the child and the status, and the kind changes meanwhile."""
    subject = cluster(backend="PyTorchJob")
    subject.served = BOTH
    subject.reconcile(crash=1)
    assert set(subject.children) == {NAMES["PyTorchJob"]}
    subject.policy(backend="TrainJob")
    subject.lag("children", {})
    subject.reconcile()
    assert "TrainJob" not in {child.kind for child in subject.children.values()}
    subject.catch_up()
    for _ in range(3):
        subject.reconcile()
    assert set(subject.children) == {NAMES["TrainJob"]}


def test_a_leader_that_does_not_follow_a_kind_yet_believes_nothing_of_its_children() -> None:
    subject = running(*BOTH, backend="TrainJob")
    subject.restart()
    subject.unseen = frozenset({"TrainJob"})
    before = subject.status
    for _ in range(5):
        decision = subject.reconcile()
        assert decision.requeue_after is not None
        subject.now += 3600
    assert subject.status.stages[0].attempts == before.stages[0].attempts
    assert set(subject.children) == {NAMES["TrainJob"]}
    subject.catch_up()
    subject.report("a", 1, 5)
    subject.reconcile()
    assert subject.status.stages[0].state is State.RUNNING


def test_a_kind_of_the_next_version_is_left_to_it() -> None:
    subject = running(*BOTH)
    (stage,) = subject.status.stages
    (attempt,) = stage.attempts
    assert attempt.job_ref is not None
    other = attempt.job_ref.model_copy(update={"kind": "OfTheNextVersion"})
    attempts = (attempt.model_copy(update={"job_ref": other}),)
    stages = (stage.model_copy(update={"attempts": attempts}),)
    status = subject.status.model_copy(update={"stages": stages})
    subject.job = subject.job.model_copy(update={"status": status})
    subject.now += 100_000
    subject.reconcile()
    assert subject.status.stages[0].attempts == attempts


def half(**policy: Any) -> Cluster:
    """A gang of two of which one holds a node, and the other finds none."""
    subject = cluster(**policy)
    subject.reconcile()
    for name, child in list(subject.children.items()):
        if child.suspended:
            subject.admit(name)
    subject.training_operator()
    first, second = subject.pods.values()
    placed = {"phase": "Running", "node": "n1", "started": subject.now}
    subject.pods[first.uid] = replace(first, **placed)
    subject.pods[second.uid] = replace(second, unschedulable="0/2 nodes are available")
    return subject


def test_half_a_gang_holds_its_nodes_no_longer_than_the_settings_say() -> None:
    subject = half()
    subject.harm("a", 1)
    decision = subject.reconcile()
    assert decision.requeue_after == 30 * 60
    subject.now += 30 * 60 - 1
    subject.reconcile()
    (attempt,) = subject.status.stages[0].attempts
    assert attempt.completion_time is None
    subject.now += 1
    subject.reconcile()
    (attempt,) = subject.status.stages[0].attempts
    assert attempt.cause is Cause.PODS_READY_TIMEOUT
    assert "within 30m of the first" in (attempt.message or "")
    # It gives back what it holds and is tried again.
    assert subject.status.stages[0].state is State.RECOVERING
    assert not subject.children


@pytest.mark.parametrize(
    "policy",
    [{"gang": "coscheduling"}, {"gang": "volcano"}, {"queue": "q"}, {"startDeadline": "12h"}],
    ids=str,
)
def test_who_has_a_gang_scheduler_or_a_deadline_waits_as_it_says(policy: dict[str, Any]) -> None:
    subject = half(**policy)
    subject.reconcile()
    subject.now += 2 * 3600
    subject.reconcile()
    (attempt,) = subject.status.stages[0].attempts
    assert attempt.completion_time is None


def test_a_gang_that_holds_nothing_waits_for_ever() -> None:
    subject = cluster()
    subject.reconcile()
    subject.training_operator()
    for pod in list(subject.pods.values()):
        subject.pods[pod.uid] = replace(pod, unschedulable="0/2 nodes are available")
    subject.reconcile()
    subject.now += 10**6
    subject.reconcile()
    (attempt,) = subject.status.stages[0].attempts
    assert attempt.completion_time is None
