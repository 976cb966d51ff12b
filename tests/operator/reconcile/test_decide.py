from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from florence_operator.api.failure import Cause
from florence_operator.api.status import State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER, FlorenceJob
from florence_operator.build.names import child_name
from florence_operator.observe.nodes import Node
from florence_operator.observe.observation import Question, Refusal, Removal
from florence_operator.observe.queue import QueuePlace
from florence_operator.reconcile.decide import decide
from florence_operator.reconcile.decision import Decision
from tests.operator.simulated_operator import SETTINGS, Cluster, job_document

A1 = child_name("j", "a", 1)
ASKED = frozenset(map(Question, ("FlorenceJob", "Child", "Pod", "Workload")))


def cluster(stages: int = 1, **policy: Any) -> Cluster:
    document = job_document(**policy)
    document["spec"]["stages"] = document["spec"]["stages"][:stages]
    made = Cluster(FlorenceJob.model_validate(document))
    made.nodes = {name: Node(name=name, ready=True, since=0) for name in ("n1", "n2")}
    return made


def running(stages: int = 1, **policy: Any) -> Cluster:
    made = cluster(stages, **policy)
    made.reconcile()
    made.training_operator()
    made.scheduler()
    made.reconcile()
    assert made.status.phase is State.RUNNING
    return made


def pods(subject: Cluster, **changes: Any) -> None:
    for pod in list(subject.pods.values()):
        subject.pods[pod.uid] = replace(pod, **changes)


def reasons(decision: Decision) -> list[str]:
    return [event.reason for event in decision.events]


def test_an_undisturbed_job_is_written_three_times_and_told_of_once() -> None:
    subject = cluster()
    events: list[str] = []
    for _ in range(12):
        events += reasons(subject.reconcile())
        subject.training_operator()
        subject.scheduler()
        if subject.status.phase is State.RUNNING:
            for pod in list(subject.pods.values()):
                subject.end(pod, 0, message='{"metrics": {"accuracy": 0.9}, "mlflowRun": "r"}')
        subject.now += 1
    assert [status.phase for status in subject.history] == ["Starting", "Running", "Succeeded"]
    assert events == ["Succeeded"]
    stage = subject.status.stages[0]
    assert stage.metrics == {"accuracy": 0.9}
    assert stage.mlflow_run == "r"
    assert stage.model == "s3://bucket/runs/ns/j-01234567/a/model"
    assert not subject.children


def test_a_stage_starts_when_what_it_needs_has_finished() -> None:
    subject = running(2)
    assert subject.status.stages[1].message == "it waits for a"
    for pod in list(subject.pods.values()):
        subject.end(pod, 0)
    decision = subject.reconcile()
    assert reasons(decision) == ["StageSucceeded"]
    assert [s.state for s in subject.status.stages] == [State.SUCCEEDED, State.STARTING]


def test_a_stage_whose_dependency_failed_never_starts() -> None:
    subject = running(2)
    subject.end(next(iter(subject.pods.values())), 2)
    subject.now += 5
    subject.reconcile()
    assert subject.status.phase is State.FAILED
    assert subject.status.stages[1].reason == "DependencyFailed"
    assert subject.status.completion_time is not None


def test_suspending_stops_the_pods_and_resuming_costs_nothing() -> None:
    subject = running(deadline="1h")
    subject.policy(suspend=True)
    subject.reconcile()
    assert subject.status.stages[0].attempts[0].stopping is Cause.SUSPENDED
    assert not subject.children
    assert all(pod.deleting for pod in subject.pods.values())
    assert subject.status.phase is State.RUNNING
    subject.kubelets()
    assert reasons(subject.reconcile()) == ["Suspended"]
    assert subject.status.phase is State.SUSPENDED
    subject.now += 1_000_000
    assert not subject.reconcile().changed
    subject.policy(suspend=False)
    assert reasons(subject.reconcile()) == ["Resumed"]
    # The pause does not count against the deadline.
    assert subject.status.phase is State.STARTING
    assert subject.wake == pytest.approx(subject.now + 3600, abs=5)


def test_a_deadline_ends_the_job() -> None:
    subject = running(deadline="1h")
    subject.now = subject.wake or 0
    while subject.status.stages[0].attempts[0].stopping is None:
        # The stall timer rings first; progress keeps the attempt.
        subject.report("a", 1, int(subject.now) % 97)
        subject.reconcile()
        subject.now = subject.wake or subject.now
    assert subject.now >= 1_000_000 + 3600
    subject.kubelets()
    subject.reconcile()
    assert subject.status.phase is State.FAILED
    assert subject.status.stages[0].attempts[0].cause is Cause.DEADLINE


def test_an_attempt_without_progress_is_replaced() -> None:
    subject = running(stallTimeout="10m")
    subject.now += 300
    subject.report("a", 1, 10)
    subject.reconcile()
    subject.now += 100
    for _ in range(5):
        subject.report("a", 1, 10)
        assert not subject.reconcile().events
        subject.now += 100
    # It is time, but nobody has said yet that it got no further.
    assert not subject.reconcile().events
    assert subject.wake == subject.now + 5
    subject.report("a", 1, 10)
    assert reasons(subject.reconcile()) == ["Stalled"]
    assert subject.status.phase is State.STALLED
    subject.kubelets()
    assert reasons(subject.reconcile()) == ["Stalled"]
    assert subject.status.phase is State.RECOVERING
    assert subject.status.stages[0].attempts[0].step == 10
    assert subject.wake == subject.now
    subject.reconcile()
    assert subject.wake is not None
    subject.now = subject.wake
    assert reasons(subject.reconcile()) == ["Recovering"]
    assert len(subject.status.stages[0].attempts) == 2


def test_a_restarted_operator_waits_a_whole_timeout_for_progress() -> None:
    subject = running(stallTimeout="10m")
    subject.now += 3600
    subject.restart()
    subject.report("a", 1, 10)
    subject.reconcile()
    assert not subject.reconcile().changed
    assert subject.wake == subject.now + 120
    for _ in range(6):
        subject.now += 100
        subject.report("a", 1, 10)
        assert subject.status.stages[0].attempts[0].stopping is None
        subject.reconcile()
    assert subject.status.stages[0].attempts[0].stopping is Cause.STALLED


def test_a_lost_node_ends_the_attempt_although_its_pods_stay() -> None:
    subject = running()
    subject.set_node("n1", False)
    subject.reconcile()
    assert subject.wake == subject.now + 30
    subject.now += 30
    subject.reconcile()
    subject.kubelets()
    subject.reconcile()
    attempt = subject.status.stages[0].attempts[0]
    assert (attempt.cause, attempt.node) == (Cause.NODE_LOST, "n1")
    assert any(pod.node == "n1" for pod in subject.pods.values())
    subject.now += 10
    decision = subject.reconcile()
    assert "nodeAffinity" in str(decision.starts)
    assert subject.status.phase is State.STARTING


@pytest.mark.parametrize(
    ("policy", "waits", "state", "cause", "word"),
    [
        (
            {},
            {"waiting_reason": "ErrImagePull", "waiting_message": "no such manifest"},
            600,
            Cause.IMAGE_PULL,
            "no such manifest",
        ),
        (
            {"startDeadline": "5m"},
            {"waiting_reason": "ImagePullBackOff"},
            300,
            Cause.IMAGE_PULL,
            "image:1",
        ),
        (
            {"startDeadline": "5m"},
            {"unschedulable": "0/2 nodes: insufficient nvidia.com/gpu"},
            300,
            Cause.UNSCHEDULABLE,
            "insufficient nvidia.com/gpu",
        ),
        ({"startDeadline": "5m"}, {}, 300, Cause.START_DEADLINE, "0 of 2 pods"),
    ],
)
def test_pods_that_do_not_start_fail_the_stage_with_the_reason(
    policy: dict[str, Any], waits: dict[str, Any], state: int, cause: Cause, word: str
) -> None:
    subject = cluster(**policy)
    subject.reconcile()
    begun = subject.now
    subject.training_operator()
    pods(subject, **waits)
    subject.reconcile()
    assert subject.status.phase is State.STARTING
    if waits:
        assert subject.status.stages[0].reason != "PodsStarting"
    assert subject.wake == begun + state
    subject.now = begun + state
    subject.reconcile()
    assert subject.status.phase is State.FAILED
    assert subject.status.stages[0].attempts[0].cause is cause
    assert word in (subject.status.stages[0].message or "")


def test_a_queued_job_says_so_and_a_preempted_one_queues_again_for_free() -> None:
    subject = cluster(queue="a100", retries={"infrastructure": 0, "application": 0})
    subject.reconcile()
    assert subject.status.phase is State.QUEUED
    subject.queue[A1] = QueuePlace(reason="Pending", message="no quota", position=2)
    assert reasons(subject.reconcile()) == ["Queued"]
    assert subject.status.stages[0].message == "number 3 in queue a100: no quota"
    assert not subject.reconcile().events
    subject.now += 500
    subject.admit(A1)
    subject.training_operator()
    subject.scheduler()
    subject.reconcile()
    assert subject.status.stages[0].attempts[0].queued_seconds == 500
    assert subject.status.idle_seconds == 500
    subject.evict(A1)
    assert reasons(subject.reconcile()) == ["Preempted"]
    subject.training_operator()
    subject.kubelets()
    subject.reconcile()
    assert [a.cause for a in subject.status.stages[0].attempts] == [Cause.PREEMPTED, None]
    assert subject.status.phase is State.QUEUED


def test_a_failed_job_is_retried_on_request_with_fresh_budgets() -> None:
    subject = running(retries={"infrastructure": 0, "application": 0}, deadline="1d")
    subject.end(next(iter(subject.pods.values())), 1)
    subject.now += 5
    subject.reconcile()
    assert subject.status.stages[0].reason == "BudgetExhausted"
    subject.kubelets()
    subject.now += 1_000_000
    subject.policy(retry=1)
    subject.reconcile()
    stage = subject.status.stages[0]
    assert (len(stage.attempts), stage.first_counted_attempt) == (2, 2)
    assert (subject.status.phase, subject.status.retry) == (State.STARTING, 1)


@pytest.mark.parametrize(("code", "policy"), [(0, "ttlAfterFinished"), (2, "ttlAfterFailed")])
def test_an_ended_job_is_deleted_when_its_time_has_come(code: int, policy: str) -> None:
    subject = running(**{policy: "1h"})
    for pod in list(subject.pods.values()):
        subject.end(pod, code)
    subject.now += 4
    subject.reconcile()
    assert subject.status.phase.terminal
    decision = subject.reconcile()
    assert decision.requeue_after == 3600
    subject.now += 3600
    deleted = subject.reconcile().delete
    assert [deletion.kind for deletion in deleted] == ["FlorenceJob"]
    assert deleted[0].uid == "0123456789"


def test_what_the_api_server_says_is_told_and_only_a_final_word_fails_the_stage() -> None:
    subject = cluster()
    seen = subject.observe(ASKED)
    busy = Refusal(message="exceeded quota: gpus", final=False)
    decision = decide(replace(seen, refusals={"a": busy}), SETTINGS)
    assert decision.status.phase is State.PENDING
    assert "exceeded quota" in (decision.status.stages[0].message or "")
    assert not decision.status.stages[0].attempts
    wrong = Refusal(message="spec.x: invalid", final=True)
    decision = decide(replace(seen, refusals={"a": wrong}), SETTINGS)
    assert decision.status.phase is State.FAILED
    assert decision.status.stages[0].attempts[0].cause is Cause.REJECTED


def test_a_job_that_cannot_run_on_a_cluster_says_which_field_is_wrong() -> None:
    document = job_document()
    del document["spec"]["image"]
    subject = Cluster(FlorenceJob.model_validate(document))
    decision = subject.reconcile()
    assert not decision.starts
    condition = subject.status.conditions[0]
    assert (condition.type, condition.reason) == ("Running", "InvalidSpec")
    assert condition.message.startswith("spec.image: ")
    assert not subject.reconcile().changed


def test_artifacts_are_deleted_before_the_job_is_gone_and_after_its_pods() -> None:
    subject = running()
    artifacts = subject.job.spec.artifacts.model_copy(update={"delete_with_job": True})
    spec = subject.job.spec.model_copy(update={"artifacts": artifacts})
    subject.job = subject.job.model_copy(update={"spec": spec})
    decision = decide(subject.observe(), SETTINGS)
    assert decision.finalizers == (ARTIFACTS_FINALIZER,)

    def deleted(**fields: Any) -> Decision:
        names = ("other", ARTIFACTS_FINALIZER)
        seen = replace(subject.observe(ASKED), deleting=True, finalizers=names, **fields)
        return decide(seen, SETTINGS)

    first = deleted()
    assert [d.kind for d in first.delete] == ["PyTorchJob"]
    assert not first.apply
    subject.delete_child(A1)
    assert not deleted().apply
    subject.kubelets()
    assert [d["kind"] for d in deleted().apply] == ["Job"]
    assert deleted(removal=Removal()).finalizers is None
    assert not deleted(removal=Removal()).apply
    assert deleted(removal=Removal(done=True)).finalizers == ("other",)
    given_up = deleted(removal=Removal(failed="it was refused"))
    assert given_up.finalizers == ("other",)
    assert reasons(given_up) == ["ArtifactsLeft"]
    assert deleted(namespace_terminating=True).finalizers == ("other",)


def test_a_deleted_job_without_artifacts_to_delete_is_left_to_garbage_collection() -> None:
    subject = running()
    decision = decide(replace(subject.observe(), deleting=True), SETTINGS)
    assert decision == Decision(status=subject.status)
