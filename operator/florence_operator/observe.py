"""What the operator knows about one job, read from the objects that the caches hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from florence.config.progress import StageProgress
from florence_operator.api.v1alpha1 import FlorenceJob

JOB_LABEL = "florence.dev/job"
UID_LABEL = "florence.dev/job-uid"
"""Of the job: pods of a deleted one may outlive it and have a namesake."""
STAGE_LABEL = "florence.dev/stage"
ATTEMPT_LABEL = "florence.dev/attempt"
INDEX_LABEL = "training.kubeflow.org/replica-index"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
SPEC_HASH = "florence.dev/spec-hash"
"""Annotation of a child."""
CONTAINER = "pytorch"

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminated:
    """How a container ended."""

    exit_code: int
    reason: str = ""
    message: str = ""
    finished: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """One pod of an attempt."""

    name: str
    uid: str
    stage: str
    attempt: int
    index: int
    phase: str
    owner: str = ""
    """uid of its controller; nothing when it has none, such as an orphan."""
    node: str | None = None
    started: float = 0.0
    """When the node's kubelet took it (Unix seconds), or 0."""
    deleting: bool = False
    deleted: float = 0.0
    """When somebody asked for its deletion (Unix seconds), or 0."""
    gone_by: float = 0.0
    """When a pod that is being deleted has used up its grace (Unix seconds), or 0."""
    waiting_reason: str = ""
    waiting_message: str = ""
    unschedulable: str = ""
    terminated: Terminated | None = None
    disruption: str = ""
    """Reason of the pod's DisruptionTarget condition, when it is True."""
    reason: str = ""
    """The pod's own reason, such as Evicted."""
    message: str = ""

    @property
    def over(self) -> bool:
        """Whether none of its containers runs any more."""
        return self.phase in ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One PyTorchJob of the job."""

    name: str
    uid: str
    stage: str
    attempt: int
    suspended: bool = False
    queued: bool = False
    """Whether Kueue admits it: it names a queue."""
    spec_hash: str = ""
    """Of the spec that it was made from (:func:`florence_operator.build.spec_hash`), or nothing."""
    deleting: bool = False
    conditions: frozenset[str] = frozenset()
    """Types of the conditions that are True."""
    failed: float = 0.0
    """Since when its Failed condition is True (Unix seconds), or 0."""
    message: str = ""
    """Message of its Failed condition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Whether a node answers, and since when that is so (Unix seconds)."""

    name: str
    ready: bool
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlace:
    """What Kueue says about a child's Workload."""

    admitted: bool = False
    active: bool | None = None
    """Whether it may be admitted at all (``spec.active``); None where that is not known."""
    evicted: str = ""
    """Reason of its eviction, such as Preempted, while that is so."""
    finished: bool = False
    reason: str = ""
    message: str = ""
    position: int | None = None
    """Place in its queue, 0 for the next, where Kueue tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The newest progress that an attempt told."""

    progress: StageProgress
    received: float
    """When it last got further (Unix seconds)."""
    heard: float
    """When it last reported, whether or not it had got further (Unix seconds)."""


@dataclass(frozen=True, slots=True)
class Question:
    """What only the API server can tell, since a cache may not have it yet.

    That an object is not in a cache is no fact. Before anything decisive is done because of it the
    API server is asked for the job's objects of the kind, or for the node of that name.
    """

    kind: Literal["FlorenceJob", "PyTorchJob", "Pod", "Workload", "Node"]
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The API server took no child for an attempt."""

    message: str
    final: bool
    """Whether it would refuse the same again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """How far the Job is that deletes the artifacts."""

    done: bool = False
    failed: str = ""
    """Why it gave up, when it did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything that decisions about one job depend on."""

    job: FlorenceJob
    now: float
    deleting: bool = False
    finalizers: tuple[str, ...] = ()
    children: Mapping[str, Child] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    nodes: Mapping[str, Node | None] | None = None
    """By name, None for one that the API server does not have; None where they may not be read."""
    queue: Mapping[str, QueuePlace] = field(default_factory=dict)
    """By child."""
    progress: Mapping[tuple[str, int], Report] = field(default_factory=dict)
    """By stage and attempt."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By stage: what the API server said just now."""
    removal: Removal | None = None
    """None while there is no Job that deletes the artifacts."""
    namespace_terminating: bool = False
    hears_since: float = 0.0
    """Since when this operator leads, and pods can reach it (Unix seconds)."""
    answered: frozenset[Question] = frozenset()
    """What the API server has been asked for this look; the answers are among the rest."""


def unix(timestamp: str | None) -> float | None:
    """Unix seconds of a Kubernetes timestamp."""
    return datetime.fromisoformat(timestamp).timestamp() if timestamp else None


def timestamp(seconds: float) -> str:
    """A moment as Kubernetes writes it, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def owner(document: Document) -> str:
    """The uid of an object's controller, or nothing."""
    references = document["metadata"].get("ownerReferences") or ()
    return next((ref["uid"] for ref in references if ref.get("controller")), "")


def pod_from(document: Document) -> Pod | None:
    """The pod in an object, or None when it is of no attempt of ours."""
    labels = document["metadata"].get("labels", {})
    attempt = labels.get(ATTEMPT_LABEL, "")
    if STAGE_LABEL not in labels or not attempt.isdecimal():
        return None
    status = document.get("status", {})
    container: Document = next(
        (c for c in status.get("containerStatuses", ()) if c["name"] == CONTAINER), {}
    )
    state = container.get("state", {})
    conditions = {c["type"]: c for c in status.get("conditions", ())}
    scheduled = conditions.get("PodScheduled", {})
    disruption = conditions.get("DisruptionTarget", {})
    waiting = state.get("waiting", {})
    gone_by = unix(document["metadata"].get("deletionTimestamp")) or 0.0
    return Pod(
        name=document["metadata"]["name"],
        uid=document["metadata"].get("uid", ""),
        stage=labels[STAGE_LABEL],
        attempt=int(attempt),
        index=int(labels.get(INDEX_LABEL, "0")),
        phase=status.get("phase", "Pending"),
        owner=owner(document),
        node=document.get("spec", {}).get("nodeName"),
        started=unix(status.get("startTime")) or 0.0,
        deleting="deletionTimestamp" in document["metadata"],
        gone_by=gone_by,
        deleted=gone_by - (document["metadata"].get("deletionGracePeriodSeconds") or 0),
        waiting_reason=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        unschedulable=scheduled.get("message", "") if scheduled.get("status") == "False" else "",
        terminated=_terminated(state.get("terminated")),
        disruption=disruption.get("reason", "") if disruption.get("status") == "True" else "",
        reason=status.get("reason", ""),
        message=status.get("message", ""),
    )


def _terminated(state: Document | None) -> Terminated | None:
    if state is None:
        return None
    return Terminated(
        exit_code=state.get("exitCode", 0),
        reason=state.get("reason", ""),
        message=state.get("message", ""),
        finished=unix(state.get("finishedAt")) or 0.0,
    )


def child_from(document: Document) -> Child | None:
    """The child in a PyTorchJob, or None when it is of no attempt of ours."""
    metadata, status = document["metadata"], document.get("status", {})
    labels = metadata.get("labels", {})
    attempt = labels.get(ATTEMPT_LABEL, "")
    if STAGE_LABEL not in labels or not attempt.isdecimal():
        return None
    true = {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}
    failed: Document = true.get("Failed", {})
    return Child(
        name=metadata["name"],
        uid=metadata.get("uid", ""),
        stage=labels[STAGE_LABEL],
        attempt=int(attempt),
        suspended=bool(document.get("spec", {}).get("runPolicy", {}).get("suspend")),
        queued=QUEUE_LABEL in labels,
        spec_hash=(metadata.get("annotations") or {}).get(SPEC_HASH, ""),
        deleting="deletionTimestamp" in metadata,
        conditions=frozenset(true),
        failed=unix(failed.get("lastTransitionTime")) or 0.0,
        message=failed.get("message", ""),
    )


def node_from(document: Document) -> Node:
    """Whether a node is ready; one that never said so is not."""
    conditions = document.get("status", {}).get("conditions", ())
    ready: Document = next((c for c in conditions if c["type"] == "Ready"), {})
    return Node(
        name=document["metadata"]["name"],
        ready=ready.get("status") == "True",
        since=unix(ready.get("lastTransitionTime")) or 0.0,
    )


def queue_place_from(document: Document, position: int | None = None) -> QueuePlace:
    """What a Kueue Workload says."""
    conditions = {c["type"]: c for c in document.get("status", {}).get("conditions", ())}
    true = {kind for kind, condition in conditions.items() if condition["status"] == "True"}
    evicted = conditions["Evicted"].get("reason", "Evicted") if "Evicted" in true else ""
    pending = conditions.get("QuotaReserved", {})
    waits = pending.get("status") != "True"
    return QueuePlace(
        admitted="Admitted" in true,
        active=(document.get("spec") or {}).get("active", True) is not False,
        evicted=evicted,
        finished="Finished" in true,
        reason=pending.get("reason", "") if waits else "",
        message=pending.get("message", "") if waits else "",
        position=position,
    )
