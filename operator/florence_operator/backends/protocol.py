"""What a kind of child has to be to run the attempts of stages: the door of every backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import ChildKind
from florence_operator.api.labels import ATTEMPT_LABEL, QUEUE_LABEL, SPEC_HASH, STAGE_LABEL
from florence_operator.api.run_policy import Gang, Topology
from florence_operator.api.times import unix
from florence_operator.kube.resources import Resource

Document = dict[str, Any]


class ChildState(StrEnum):
    """How far a child is, as its own controller says."""

    SUSPENDED = "Suspended"
    ACTIVE = "Active"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remnant:
    """An object that is left when a child is gone."""

    kind: str
    name: str
    child: str
    """The name of the child that it was made for; another one of the name is not meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptSpec:
    """What an attempt is, whatever kind its child is of."""

    metadata: Mapping[str, Any]
    """Of the child: name, namespace, labels and owner."""
    workers: int
    processes: int
    """In every worker: one a GPU, or one."""
    template: Mapping[str, Any]
    """Of its pods; its container has the backend's name, and no rendezvous yet."""
    gang: Gang = Gang.NONE
    """Who sees to it that all of its pods start, or none."""
    topology: Topology | None = None
    """How close together they have to be."""

    @property
    def name(self) -> str:
        """The child's name."""
        return str(self.metadata["name"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One child of the job, as it was observed."""

    kind: str
    name: str
    uid: str
    stage: str
    attempt: int
    state: ChildState = ChildState.ACTIVE
    since: float = 0.0
    """Since when it has failed (Unix seconds), or 0."""
    message: str = ""
    """What its controller says of the failure."""
    queued: bool = False
    """Whether Kueue admits it: it names a queue."""
    spec_hash: str = ""
    """Of the spec that it was made from (:func:`florence_operator.build.children.spec_hash`)."""
    created: float = 0.0
    """When it was made (Unix seconds), or 0."""
    deleting: bool = False

    @property
    def suspended(self) -> bool:
        """Whether it is to have no pods now."""
        return self.state is ChildState.SUSPENDED


class Backend(Protocol):
    """A kind of child: everything that knows it is behind this."""

    kind: str
    """Of its children."""
    resource: Resource
    """Of its children."""
    pods: ChildKind
    """How their pods look."""
    needed: Sequence[Resource]
    """What the API server has to serve for it."""
    resources: Mapping[str, Resource]
    """Of all objects that it makes or that are left of them, by kind."""

    def build(self, attempt: AttemptSpec) -> list[Document]:
        """All objects of one attempt, in the order in which they are made, the child last."""

    def child(self, document: Mapping[str, Any]) -> Child | None:
        """What an object of the kind says; None when it is of no attempt of ours."""

    def made(self, child: Child, pod: Pod) -> bool:
        """Whether a pod of an attempt is one that the child of it brought about."""

    def companions(self, child: str) -> Sequence[Remnant]:
        """What was made beside a child of that name, and goes when it does."""

    def remnants(self, pod: Pod) -> Sequence[Remnant]:
        """What may be left beside a pod whose child is gone, and belongs to nobody any more."""

    def slim(self, document: Document) -> Document:
        """What a cache keeps of an object of the kind."""


def child_fields(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The fields of a :class:`Child` that metadata alone says; None when it is of no attempt."""
    metadata = document["metadata"]
    labels = metadata.get("labels") or {}
    attempt = labels.get(ATTEMPT_LABEL, "")
    if STAGE_LABEL not in labels or not attempt.isdecimal():
        return None
    return {
        "name": metadata["name"],
        "uid": metadata.get("uid", ""),
        "stage": labels[STAGE_LABEL],
        "attempt": int(attempt),
        "queued": QUEUE_LABEL in labels,
        "spec_hash": (metadata.get("annotations") or {}).get(SPEC_HASH, ""),
        "deleting": "deletionTimestamp" in metadata,
        "created": unix(metadata.get("creationTimestamp")) or 0.0,
    }


def true_conditions(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The conditions of an object that are True, by type."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    return {c["type"]: c for c in conditions if c.get("status") == "True"}


def with_variables(
    environment: Sequence[Document], variables: Sequence[Document]
) -> list[Document]:
    """A container's environment with variables that nobody else may set."""
    taken = {variable["name"] for variable in variables}
    return [*(v for v in environment if v["name"] not in taken), *variables]
