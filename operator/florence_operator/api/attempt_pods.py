"""What a pod of an attempt says, read from its object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence_operator.api.child_kinds import PYTORCH_JOB, kind_of_pod, train_job_of
from florence_operator.api.labels import ATTEMPT_LABEL, STAGE_LABEL
from florence_operator.api.times import unix

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
    container: str = PYTORCH_JOB.container
    """The one that runs the stage."""
    owner: str = ""
    """uid of its controller; nothing when it has none, such as an orphan."""
    train_job: str = ""
    """The TrainJob that its controller, a batch Job, is named after; nothing for other pods."""
    created: float = 0.0
    """When it was made (Unix seconds), or 0."""
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


def owner(document: Document) -> str:
    """The uid of an object's controller, or nothing."""
    return str(_controller(document).get("uid", ""))


def _controller(document: Document) -> Document:
    references = document["metadata"].get("ownerReferences") or ()
    return next((ref for ref in references if ref.get("controller")), {})


def pod_from(document: Document) -> Pod | None:
    """The pod in an object, or None when it is of no attempt of ours."""
    labels = document["metadata"].get("labels", {})
    attempt = labels.get(ATTEMPT_LABEL, "")
    if STAGE_LABEL not in labels or not attempt.isdecimal():
        return None
    status = document.get("status", {})
    kind = kind_of_pod(labels)
    container: Document = next(
        (c for c in status.get("containerStatuses", ()) if c["name"] == kind.container), {}
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
        index=int(labels.get(kind.index_label, "0")),
        container=kind.container,
        phase=status.get("phase", "Pending"),
        owner=owner(document),
        train_job=train_job_of(labels, _controller(document)),
        created=unix(document["metadata"].get("creationTimestamp")) or 0.0,
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
