"""``why`` and ``describe`` over jobs in every state, and over anything at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_operator.api.cause_texts import CAUSE_TEXTS
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt, State
from florencectl.cause_texts import happened, remedy
from florencectl.explain.describe import describe
from florencectl.explain.snapshot import Event, Snapshot
from florencectl.explain.why import why
from tests.cli.cluster_objects import (
    FIVE_MINUTES_AGO,
    NOW,
    attempt,
    job,
    node,
    pod,
    stage,
    waiting,
)


def on_node(pending: dict[str, Any]) -> dict[str, Any]:
    """A pod that a node has taken and that does not run yet."""
    return {**pending, "spec": {**pending["spec"], "nodeName": "node0"}}


PROGRESS = {
    "step": 40,
    "total": 100,
    "loss": 1.5,
    "samplesPerSecond": 410.0,
    "etaSeconds": 90.0,
    "checkpointStep": 30,
}
LOST = attempt(
    1,
    completionTime=FIVE_MINUTES_AGO,
    cause="NodeLost",
    pod="big-mixed-a1-worker-1",
    node="node1",
    exitCode=137,
    message="node1 is not ready",
)
BAD = attempt(
    1,
    completionTime=FIVE_MINUTES_AGO,
    cause="UnusableData",
    exitCode=3,
    pod="p",
    message="s3://x: no shards",
    lastLines=["reading", "s3://x: no shards"],
)
NOT_HEARD = {
    "type": "ProgressReported",
    "status": "False",
    "reason": "NotHeard",
    "message": "nothing has been heard of it",
    "lastTransitionTime": FIVE_MINUTES_AGO,
}
TRAIN_JOB = {"kind": "TrainJob", "name": "big-mixed-a1"}
QUEUE = {"runPolicy": {"queue": "a100"}}
KUEUE_SAYS = {
    "metadata": {"ownerReferences": [{"name": "big-mixed-a1"}]},
    "status": {
        "conditions": [
            {"type": "QuotaReserved", "status": "False", "message": "8 more GPUs needed"}
        ]
    },
}
OPEN_QUEUE = {"metadata": {"name": "a100"}}


def facts(document: dict[str, Any], **more: Any) -> Snapshot:
    return Snapshot(**{"job": document, "now": NOW, **more})


def warning(about: str, message: str) -> Event:
    return Event(about=about, kind="Warning", reason="X", message=message, count=1, last=NOW)


CASES: dict[str, tuple[Snapshot, list[str]]] = {
    "unseen": (
        facts(job()),
        ["was created 1h00m ago and the operator has not looked", "'florencectl doctor'"],
    ),
    "pending": (
        facts(job("Pending", stage("mixed", message="spec.image: name one"), stage("check"))),
        ["stage 'mixed' has not started", "Spec.image: name one."],
    ),
    "queued": (
        facts(
            job("Queued", stage("mixed", "Queued", attempts=[attempt()]), **QUEUE),
            workloads=[KUEUE_SAYS],
            queues=[OPEN_QUEUE],
        ),
        [
            "has waited for 5m00s in the queue 'a100' with 2 pods of 8 GPUs",
            "Kueue says: 8 more GPUs needed.",
        ],
    ),
    "much time lost": (
        facts(
            job(
                "Running",
                stage(
                    "mixed",
                    "Running",
                    attempts=[
                        attempt(
                            1,
                            startTime="2027-01-15T05:00:00Z",
                            admissionTime="2027-01-15T05:00:00Z",
                            podsReadyTime="2027-01-15T05:01:00Z",
                            lastProgressTime="2027-01-15T06:01:00Z",
                            completionTime="2027-01-15T06:11:00Z",
                            cause="Stalled",
                            step=40,
                            seconds={"train": 3600, "kept": 1800},
                        ),
                        attempt(2, step=41, lastProgressTime=FIVE_MINUTES_AGO),
                    ],
                    progress=PROGRESS,
                ),
            )
        ),
        ["with its pods,", "% were productive:", "30m00s steps that no checkpoint kept", "stalls"],
    ),
    "bad nodes": (
        facts(
            job(
                "Running",
                stage(
                    "mixed",
                    "Running",
                    attempts=[LOST, attempt(2, avoidedNodes=["node1", "node7"])],
                    progress=PROGRESS,
                ),
            )
        ),
        ["Its pods keep away from node1, node7, where attempts ended again and again."],
    ),
    "no such queue": (
        facts(
            job("Queued", stage("mixed", "Queued", attempts=[attempt()]), **QUEUE),
            workloads=[],
            queues=[{"metadata": {"name": "other"}}],
        ),
        ["There is no LocalQueue 'a100'", "there: other"],
    ),
    "no workload": (
        facts(
            job("Queued", stage("mixed", "Queued", attempts=[attempt()]), **QUEUE),
            workloads=[],
            queues=[OPEN_QUEUE],
        ),
        ["Kueue has made no Workload"],
    ),
    "no pods": (
        facts(job("Starting", stage("mixed", "Starting", attempts=[attempt()]))),
        ["0 of 2 pods of stage 'mixed' (attempt 1) run after 5m00s", "Training Operator has not"],
    ),
    "no pods of a TrainJob": (
        facts(job("Starting", stage("mixed", "Starting", attempts=[attempt(jobRef=TRAIN_JOB)]))),
        ["Kubeflow Trainer has not made the pods of TrainJob 'big-mixed-a1'"],
    ),
    "pods of a TrainJob forbidden": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt(jobRef=TRAIN_JOB)])),
            events=[warning("Job/big-mixed-a1-node-0", "violates PodSecurity restricted")],
        ),
        ["There are no pods yet: violates PodSecurity restricted."],
    ),
    "pods forbidden": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt()])),
            events=[warning("PyTorchJob/big-mixed-a1", "exceeded quota: gpus")],
        ),
        ["There are no pods yet: exceeded quota: gpus."],
    ),
    "bad image": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt()])),
            pods=[
                pod(0),
                pod(
                    1,
                    phase="Pending",
                    containerStatuses=waiting("ImagePullBackOff", "no such image"),
                ),
            ],
        ),
        [
            "1 of 2 pods",
            "pod big-mixed-a1-worker-1 cannot start (ImagePullBackOff: no such image).",
            "Check spec.image",
        ],
    ),
    "no room": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt()])),
            pods=[
                pod(
                    0,
                    phase="Pending",
                    conditions=[
                        {
                            "type": "PodScheduled",
                            "status": "False",
                            "message": "Insufficient nvidia.com/gpu.",
                        }
                    ],
                )
            ],
            nodes=[node("n1"), node("n2")],
            all_pods=[{"spec": {**pod()["spec"], "nodeName": "n1"}, "status": {}}],
        ),
        [
            "No node takes pod big-mixed-a1-worker-0: Insufficient nvidia.com/gpu.",
            "has room for 1 pod",
            "n1 0 of 8, n2 8 of 8",
        ],
    ),
    "no scheduler": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt()])),
            pods=[pod(0, phase="Pending"), on_node(pod(1, phase="Pending"))],
        ),
        [
            "No scheduler has looked at pod big-mixed-a1-worker-0 yet.",
            "see whether kube-scheduler runs",
        ],
    ),
    "pulling": (
        facts(
            job("Starting", stage("mixed", "Starting", attempts=[attempt()])),
            pods=[on_node(pod(0, phase="Pending", containerStatuses=waiting("ContainerCreating")))],
        ),
        ["pulls its image or mounts its volumes"],
    ),
    "running": (
        facts(
            job(
                "Running",
                stage("mixed", "Running", attempts=[LOST, attempt(2)], progress=PROGRESS),
            )
        ),
        [
            "stage 'mixed' (attempt 2) has been at work for 5m00s",
            "Step 40 of 100 (40 %), loss 1.5000, 410 samples/s, about 1m30s left.",
            "checkpoint is of step 30",
            "Earlier attempts ended: 1 NodeLost.",
        ],
    ),
    "not heard": (
        facts(
            job(
                "Running",
                stage(
                    "mixed",
                    "Running",
                    attempts=[attempt()],
                    progress=PROGRESS,
                    reason="NotHeard",
                    message="attempt 1 runs in 2 pods; nothing has been heard of it",
                    conditions=[NOT_HEARD],
                ),
            )
        ),
        ["runs: stage 'mixed'", "nothing has been heard of it."],
    ),
    "a state of another version": (
        facts(job("Archived", stage("mixed", "Archived", message="kept for the audit"))),
        ["is in state Archived", "Kept for the audit."],
    ),
    "stalled": (
        facts(
            job(
                "Stalled",
                stage("mixed", "Stalled", attempts=[attempt(lastProgressTime=FIVE_MINUTES_AGO)]),
            )
        ),
        ["last got further 5m00s ago", "10m without progress is allowed", "replaces the attempt"],
    ),
    "recovering": (
        facts(
            job(
                "Recovering",
                stage(
                    "mixed",
                    "Recovering",
                    attempts=[LOST],
                    progress=PROGRESS,
                    nextAttemptTime="2027-01-15T08:00:05Z",
                ),
            )
        ),
        [
            "Attempt 1 lost a node (pod big-mixed-a1-worker-1, node node1, exit code 137): node1 "
            "is not ready.",
            "retry 1 of 20 for infrastructure failures",
            "starts in 5s from the checkpoint of step 30",
        ],
    ),
    "failed": (
        facts(job("Failed", stage("mixed", "Failed", attempts=[BAD]), stage("check"))),
        [
            "failed in stage 'mixed' after 1 attempt.",
            "could not use its data (pod p, exit code 3): s3://x: no shards.",
            "'florencectl retry big'",
        ],
    ),
    "suspended": (
        facts(
            job(
                "Suspended",
                stage("mixed", "Suspended", attempts=[attempt()], progress=PROGRESS),
                runPolicy={"suspend": True},
            )
        ),
        ["is suspended.", "'florencectl resume big' goes on from the checkpoint of step 30."],
    ),
    "succeeded": (
        facts(
            job(
                "Succeeded",
                stage("mixed", "Succeeded", model="s3://m"),
                stage("check", "Succeeded", metrics={"digits/top1": 0.98}),
            )
        ),
        ["succeeded", "Results of stage 'check': digits/top1 0.98.", "The model is s3://m."],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_why_says_what_matters(case: str) -> None:
    given_facts, phrases = CASES[case]
    text = why(given_facts)
    for phrase in phrases:
        assert phrase in text
    assert "\n" not in text
    assert "None" not in text
    assert ".." not in text


@pytest.mark.parametrize("case", CASES)
def test_describe_tells_the_whole_story(case: str) -> None:
    given_facts, _ = CASES[case]
    text = describe(given_facts)
    assert "Name:       big" in text
    assert "  mixed  pretrain  -      2 x 8 GPUs" in text
    assert text.endswith(f"What happens next:\n  {why(given_facts)}")


def test_describe_shows_the_lines_of_the_pod_that_failed() -> None:
    struck = describe(CASES["bad nodes"][0])
    assert "Strikes against nodes:" in struck
    assert "node1  NodeLost  mixed  1" in struck
    lost = describe(CASES["much time lost"][0])
    assert "GOODPUT" in lost
    assert "RECOMPUTE" in lost
    text = describe(CASES["failed"][0])
    assert "mixed, attempt 1, pod p:\n    reading\n    s3://x: no shards" in text


def test_describe_shows_the_conditions_of_stages() -> None:
    text = describe(CASES["not heard"][0])
    assert "ProgressReported of mixed  False   NotHeard  5m00s" in text


def test_a_cause_of_another_version_is_named() -> None:
    cause = Cause("Gremlins")
    assert happened(Attempt(number=1, cause=cause)) == "attempt 1 ended (Gremlins)"
    assert "operator's version" in remedy(cause, "big", "florencectl")


def test_a_job_that_is_being_deleted_says_so_whatever_its_state() -> None:
    document = job("Running", stage("mixed", "Running"))
    document["metadata"] |= {"deletionTimestamp": FIVE_MINUTES_AGO, "finalizers": ["f/x"]}
    text = why(facts(document, pods=[pod()]))
    assert "is being deleted since 5m00s ago" in text
    assert "big-mixed-a1-worker-0" in text
    assert "f/x" in text


def test_a_plugin_names_itself() -> None:
    assert "'kubectl florence doctor'" in why(CASES["unseen"][0], "kubectl florence")


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_words_and_a_remedy(cause: Cause) -> None:
    assert cause in CAUSE_TEXTS
    words = happened(Attempt(number=3, cause=cause, pod="p", exit_code=1, message="it broke."))
    assert words.startswith("attempt 3 ")
    assert words.endswith("(pod p, exit code 1): it broke")
    assert "{" not in remedy(cause, "big", "florencectl")


STATES = [*(state.value for state in State), "OfTheNextVersion"]
TEXTS = st.none() | st.text(max_size=12)
MOMENTS = st.none() | st.just(FIVE_MINUTES_AGO)
ATTEMPTS = st.builds(
    lambda number, cause, **rest: {"number": number, "cause": cause, **rest},
    st.integers(1, 5),
    st.none() | st.sampled_from([*(cause.value for cause in Cause), "Gremlins"]),
    message=TEXTS,
    pod=TEXTS,
    jobRef=st.none() | st.just({"kind": "PyTorchJob", "name": "child"}),
    startTime=MOMENTS,
    admissionTime=MOMENTS,
    completionTime=MOMENTS,
    exitCode=st.none() | st.integers(0, 255),
    lastLines=st.lists(st.text(max_size=5), max_size=2),
)
STAGES = st.builds(
    lambda name, state, **rest: {"name": name, "state": state, **rest},
    st.sampled_from(["mixed", "check", "other"]),
    st.sampled_from(STATES),
    message=TEXTS,
    nextAttemptTime=MOMENTS,
    attempts=st.lists(ATTEMPTS, max_size=3),
    progress=st.none() | st.just(PROGRESS) | st.just({}),
)
PODS = st.builds(
    lambda index, phase, reason: pod(
        index, phase=phase, containerStatuses=waiting(reason) if reason else []
    ),
    st.integers(0, 3),
    st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    st.sampled_from(["", "ContainerCreating", "ErrImagePull"]),
)
POLICIES = st.sampled_from([{}, {"queue": "a100"}, {"suspend": True, "startDeadline": "1h"}])


@settings(max_examples=150, deadline=None)
@given(
    phase=st.sampled_from(STATES),
    stages=st.lists(STAGES, max_size=3),
    pods=st.lists(PODS, max_size=3),
    policy=POLICIES,
    nodes=st.none() | st.just([node("n1", taints=[{"key": "k", "effect": "NoSchedule"}])]),
    workloads=st.none() | st.just([KUEUE_SAYS]) | st.just([]),
)
def test_nothing_that_a_job_can_be_is_without_words(
    phase: str, stages: list[Any], pods: list[Any], policy: Any, nodes: Any, workloads: Any
) -> None:
    found = facts(
        job(phase, *stages, runPolicy=policy), pods=pods, nodes=nodes, workloads=workloads
    )
    assert len(why(found)) > len("Job 'big' is")
    assert describe(found)
