"""Who may be believed: what the operator cannot see, cannot hear or does not know is no fact."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.api.failure import Cause
from florence_operator.api.status import PROGRESS_REPORTED, StageStatus, State
from florence_operator.build.names import child_name
from florence_operator.observe.observation import Question
from tests.operator.reconcile.test_decide import cluster, pods, reasons, running
from tests.operator.simulated_operator import Cluster

A1, A2 = child_name("j", "a", 1), child_name("j", "a", 2)


def stage(subject: Cluster) -> StageStatus:
    return subject.status.stages[0]


def causes(subject: Cluster) -> list[Cause | None]:
    return [attempt.cause for attempt in stage(subject).attempts]


def heard(subject: Cluster) -> dict[str, str]:
    """The condition of the first stage that says whether it is heard."""
    found = [c for c in stage(subject).conditions if c.type == PROGRESS_REPORTED]
    return {"status": found[0].status, "reason": found[0].reason} if found else {}


def settle(subject: Cluster, rounds: int = 4) -> None:
    for _ in range(rounds):
        subject.reconcile()
        subject.training_operator()
        subject.kubelets()
        subject.now += 1


# What is not heard.


def test_another_leader_does_not_take_an_outage_for_a_stall() -> None:
    subject = running(stallTimeout="10m")
    subject.report("a", 1, 50)
    subject.reconcile()
    subject.now += 11 * 60
    subject.restart()
    assert not subject.reconcile().delete
    subject.report("a", 1, 50)
    subject.reconcile()
    assert stage(subject).state is State.RUNNING


def test_pods_that_are_never_heard_are_told_of_and_let_alone() -> None:
    subject = running()
    subject.now += 120
    assert reasons(subject.reconcile()) == ["NotHeard"]
    assert (stage(subject).state, stage(subject).reason) == (State.RUNNING, "NotHeard")
    assert "nothing has been heard of attempt 1 since 1970-01-12T13:46:40Z" in str(
        stage(subject).message
    )
    assert heard(subject) == {"status": "False", "reason": "NotHeard"}
    for _ in range(20):
        subject.now += 8 * 3600
        assert not subject.reconcile().changed
    assert causes(subject) == [None]
    assert len(subject.children) == 1
    subject.report("a", 1, 50)
    assert not subject.reconcile().events
    assert heard(subject) == {"status": "True", "reason": "Reporting"}
    assert stage(subject).reason == "Running"


def test_what_another_leader_did_not_hear_stays_told_until_this_one_knows_better() -> None:
    subject = running()
    subject.now += 120
    subject.reconcile()
    subject.restart()
    assert not subject.reconcile().changed
    subject.report("a", 1, 50)
    subject.reconcile()
    assert stage(subject).reason == "Running"


def test_silence_ends_an_attempt_only_where_the_job_asks_for_it() -> None:
    subject = running(silenceTimeout="1h")
    subject.report("a", 1, 50)
    subject.now += 3599
    subject.reconcile()
    assert stage(subject).attempts[0].stopping is None
    assert subject.wake == subject.now + 1
    subject.now += 1
    subject.reconcile()
    assert stage(subject).attempts[0].stopping is Cause.NOT_HEARD
    settle(subject)
    assert causes(subject)[0] is Cause.NOT_HEARD
    assert not stage(subject).conditions


def test_time_in_which_nothing_could_be_heard_is_no_part_of_a_silence() -> None:
    subject = running(silenceTimeout="1h")
    subject.now += 3000
    subject.restart()
    subject.now += 3000
    subject.reconcile()
    assert stage(subject).attempts[0].stopping is None


# What is not in a cache.


def test_a_node_that_the_cache_does_not_have_yet_is_asked_for() -> None:
    subject = running()
    subject.lag("nodes", {})
    decision = subject.reconcile()
    assert not decision.changed
    assert not decision.delete
    assert Question("Node", "n1") in subject.questions


def test_a_node_that_the_cache_takes_for_lost_is_looked_at_again() -> None:
    subject = running()
    subject.set_node("n1", False)
    subject.lag("nodes")
    subject.set_node("n1", True)
    subject.now += 3600
    assert not subject.reconcile().delete
    assert stage(subject).attempts[0].stopping is None


def test_a_node_that_is_gone_is_lost_at_once() -> None:
    subject = running()
    subject.remove_node("n1")
    subject.reconcile()
    assert stage(subject).attempts[0].stopping is Cause.NODE_LOST


@pytest.mark.parametrize("behind", [("children", "pods"), ("pods",), ("children",)])
def test_what_the_caches_of_a_new_leader_do_not_show_is_not_gone(behind: tuple[str, ...]) -> None:
    subject = running()
    subject.now += 100
    subject.take_over({kind: {} for kind in behind})
    for _ in range(3):
        assert not subject.reconcile().changed
    assert len(subject.children) == 1


@pytest.mark.parametrize("rounds", range(4))
def test_a_new_leader_whose_cache_of_the_job_is_behind_touches_nothing(rounds: int) -> None:
    """However old what it sees is, the attempt that goes on is neither doubled nor deleted."""
    subject = cluster()
    old = [subject.snapshot()]
    subject.reconcile()
    old.append(subject.snapshot())
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    old.append(subject.snapshot())
    subject.end(next(iter(subject.pods.values())), 75)
    subject.now += 5
    settle(subject, 12)
    old.append(subject.snapshot())
    subject.scheduler()
    subject.reconcile()
    assert list(subject.children) == [A2]
    subject.report("a", 2, 10)
    subject.take_over({**old[rounds], "children": subject.children})
    subject.report("a", 2, 11)
    for _ in range(4):
        subject.reconcile()
        subject.check()
    assert list(subject.children) == [A2]


def test_a_child_that_is_gone_indeed_ends_the_attempt() -> None:
    subject = running()
    subject.harm("a", 1)
    subject.delete_child(A1)
    subject.now += 100
    subject.reconcile()
    assert causes(subject) == [Cause.CHILD_DELETED]


def test_the_next_attempt_waits_for_pods_that_no_cache_shows() -> None:
    subject = running()
    subject.harm("a", 1)
    before = dict(subject.pods)
    subject.delete_child(A1)
    subject.take_over({"pods": {}})
    subject.now += 10
    subject.reconcile()
    assert causes(subject) == [Cause.CHILD_DELETED]
    for _ in range(3):
        subject.now += 10
        subject.reconcile()
    assert stage(subject).reason == "WaitingForPods"
    assert set(subject.pods) == set(before)


def test_an_attempt_that_is_being_stopped_ends_when_its_pods_are_gone_indeed() -> None:
    subject = running()
    subject.policy(suspend=True)
    subject.reconcile(crash=1)  # the status alone
    subject.take_over({"children": {}, "pods": {}})
    subject.reconcile()
    assert stage(subject).attempts[0].completion_time is None
    subject.catch_up()
    settle(subject)
    assert subject.status.phase is State.SUSPENDED


def failed_once() -> tuple[Cluster, dict[str, Any]]:
    """A stage whose second attempt trains, and what the caches held before that began."""
    subject = running(retries={"infrastructure": 0})
    subject.end(next(iter(subject.pods.values())), 75)
    subject.now += 5
    settle(subject)
    assert subject.status.phase is State.FAILED
    old = subject.snapshot()
    subject.policy(retry=1)
    settle(subject)
    subject.scheduler()
    subject.reconcile()
    subject.report("a", 2, 10)
    assert list(subject.children) == [A2]
    return subject, old


def test_a_child_that_an_old_status_does_not_know_is_not_taken_for_a_leftover() -> None:
    subject, old = failed_once()
    subject.take_over({"job": old["job"]})
    subject.report("a", 2, 11)
    settle(subject)
    assert list(subject.children) == [A2]
    assert stage(subject).state is State.RUNNING


def test_an_attempt_that_old_caches_do_not_show_is_not_started_twice() -> None:
    subject, old = failed_once()
    retried = old["job"].model_copy(update={"spec": subject.job.spec})
    subject.take_over({**old, "job": retried})
    settle(subject)
    assert [attempt.number for attempt in stage(subject).attempts] == [1, 2]


# What cannot be killed, and what belongs to nobody.


def test_a_pod_that_does_not_end_does_not_hold_its_stage_for_ever() -> None:
    subject = running(deadline="1h")
    while stage(subject).state is not State.STALLED:
        subject.now += 100
        subject.report("a", 1, 10)
        subject.reconcile()
    left = next(iter(subject.pods))
    subject.stuck.add(left)
    subject.kubelets()
    subject.reconcile()
    assert subject.wake == subject.pods[left].gone_by + 30
    subject.now = subject.wake
    decision = subject.reconcile()
    attempt = stage(subject).attempts[0]
    assert attempt.cause is Cause.STALLED
    assert attempt.node == subject.pods[left].node
    assert "did not end on node" in str(attempt.message)
    subject.now += 10
    decision = subject.reconcile()
    assert f"'values': ['{attempt.node}']" in str(decision.starts)
    assert stage(subject).state is State.STARTING
    subject.now += 3600
    settle(subject)
    assert subject.status.phase is State.FAILED


def test_orphans_hold_their_stage_and_are_deleted_with_their_services() -> None:
    subject = running()
    subject.orphan_child(A1)
    subject.now += 4
    subject.reconcile()
    assert causes(subject) == [Cause.CHILD_DELETED]
    assert all(pod.deleting for pod in subject.pods.values())
    assert not subject.services
    subject.now += 10
    subject.reconcile()
    assert stage(subject).reason == "WaitingForPods"
    subject.kubelets()
    subject.reconcile()
    assert (len(stage(subject).attempts), list(subject.children)) == (2, [A2])


def test_an_attempt_that_is_being_stopped_does_not_wait_for_orphans_for_ever() -> None:
    subject = running()
    subject.policy(suspend=True)
    subject.reconcile(crash=1)  # the status alone
    subject.orphan_child(A1)
    settle(subject)
    assert subject.status.phase is State.SUSPENDED
    assert not subject.pods


def test_orphans_of_a_job_that_is_over_are_deleted() -> None:
    subject = running()
    subject.orphan_child(A1)
    pods(subject, phase="Succeeded")
    subject.now += 4
    subject.reconcile()
    assert not subject.pods
    assert not subject.services


def test_failed_pods_are_kept_as_long_as_the_job_asks_for_and_hold_up_nothing() -> None:
    subject = running(keepFailedPods="10m")
    failed = next(iter(subject.pods.values()))
    subject.end(failed, 75)
    subject.now += 5
    subject.reconcile()
    ended = subject.now
    subject.now += 10
    settle(subject)
    assert list(subject.children) == [A1, A2]
    assert failed.uid in subject.pods
    subject.scheduler()
    subject.reconcile()
    subject.now = ended + 599
    subject.report("a", 2, 10)
    assert not subject.reconcile().delete
    assert subject.wake == ended + 600
    subject.now += 1
    subject.reconcile()
    assert list(subject.children) == [A2]
    assert failed.uid not in subject.pods


def test_pods_that_did_not_fail_are_not_kept() -> None:
    subject = running(keepFailedPods="10m")
    subject.policy(suspend=True)
    settle(subject)
    assert not subject.children


def test_a_pod_that_belongs_to_nobody_says_nothing() -> None:
    subject = running()
    subject.harm("a", 1)
    pods(subject, owner="", phase="Succeeded")
    subject.now += 4
    subject.reconcile()
    assert stage(subject).state is not State.SUCCEEDED
