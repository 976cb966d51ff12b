"""What Kueue decides is obeyed: whom it preempts, what it switches off, and what it gives up."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.status import State
from tests.operator.reconcile.test_beliefs import A1, A2, causes, settle, stage
from tests.operator.reconcile.test_decide import cluster
from tests.operator.simulated_operator import Cluster


def evicted(reason: str, **policy: Any) -> Cluster:
    subject = cluster(queue="pool", **policy)
    subject.reconcile()
    subject.admit(A1)
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    assert stage(subject).state is State.RUNNING
    subject.evict(A1, reason)
    settle(subject)
    return subject


def test_a_queue_that_takes_back_again_and_again_what_it_gave_is_not_asked_at_once() -> None:
    subject = cluster(queue="pool")
    subject.reconcile()
    waited = []
    for _ in range(5):
        (name,) = subject.children
        subject.admit(name)
        subject.reconcile()
        subject.evict(name, "AdmissionCheck")
        begun = subject.now
        while list(subject.children) in ([name], []):
            settle(subject, 1)
        waited.append(subject.now - begun)
    assert set(causes(subject)[:-1]) == {Cause.PREEMPTED}
    assert waited == sorted(waited)
    assert waited[0] < 3
    assert waited[-1] > 35


def test_a_child_that_a_cache_still_shows_in_its_queue_was_not_preempted() -> None:
    subject = cluster(queue="pool")
    subject.reconcile()
    old = subject.snapshot()
    subject.admit(A1)
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    subject.take_over({"children": old["children"], "queue": old["queue"]})
    settle(subject)
    assert causes(subject) == [None]
    assert stage(subject).state is State.RUNNING


@pytest.mark.parametrize("reason", ["Deactivated", "DeactivatedDueToRequeuingLimitExceeded"])
def test_a_workload_that_was_switched_off_is_for_its_administrator_to_switch_on(
    reason: str,
) -> None:
    subject = evicted(reason)
    assert causes(subject) == [Cause.SUSPENDED]
    assert (stage(subject).state, stage(subject).reason) == (State.SUSPENDED, "Deactivated")
    assert list(subject.children) == [A1]
    subject.now += 1_000_000
    assert not subject.reconcile().changed
    # A new leader whose cache of Workloads is behind does not overrule it either.
    subject.take_over({"queue": {}})
    assert not subject.reconcile().changed
    subject.catch_up()
    subject.activate(A1)
    settle(subject)
    assert list(subject.children) == [A2]
    assert stage(subject).state is State.QUEUED


def test_a_workload_that_is_switched_off_before_it_ran_waits() -> None:
    subject = cluster(queue="pool")
    subject.reconcile()
    subject.evict(A1, "Deactivated")
    settle(subject)
    assert causes(subject) == [None]
    assert (stage(subject).state, stage(subject).reason) == (State.SUSPENDED, "Deactivated")
    subject.activate(A1)
    subject.reconcile()
    assert stage(subject).state is State.QUEUED
    assert list(subject.children) == [A1]


def test_a_job_whose_workload_is_switched_off_can_be_suspended_all_the_same() -> None:
    subject = cluster(queue="pool")
    subject.reconcile()
    subject.evict(A1, "Deactivated")
    settle(subject)
    subject.policy(suspend=True)
    settle(subject)
    assert subject.status.phase is State.SUSPENDED
    assert causes(subject) == [Cause.SUSPENDED]
    assert not subject.children


@pytest.mark.parametrize(
    "reason", ["MaximumExecutionTimeExceeded", "DeactivatedDueToMaximumExecutionTimeExceeded"]
)
def test_the_maximum_execution_time_is_final(reason: str) -> None:
    subject = evicted(reason)
    assert causes(subject) == [Cause.MAXIMUM_EXECUTION_TIME]
    assert subject.status.phase is State.FAILED
    assert not subject.children


def test_pods_that_were_not_ready_in_time_cost_a_retry_and_a_pause() -> None:
    subject = evicted("PodsReadyTimeout", retries={"infrastructure": 1})
    assert causes(subject) == [Cause.PODS_READY_TIMEOUT]
    assert budget_of(Cause.PODS_READY_TIMEOUT) is Budget.INFRASTRUCTURE
    assert subject.status.stages[0].next_attempt_time is not None
    subject.now += 10
    subject.reconcile()
    subject.admit(A2)
    subject.reconcile()
    subject.evict(A2, "PodsReadyTimeout")
    settle(subject)
    assert stage(subject).reason == "BudgetExhausted"


def test_pods_that_go_before_their_child_is_seen_suspended_were_preempted() -> None:
    subject = cluster(queue="pool")
    subject.reconcile()
    subject.admit(A1)
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    subject.lag("children")
    subject.lag("queue")
    subject.evict(A1)
    subject.training_operator()
    for _ in range(5):
        subject.reconcile()
        subject.now += 1
    assert causes(subject)[0] is Cause.PREEMPTED
