"""What the operator knows about one job, read from the objects that the caches hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from florence.config.progress import StageProgress
from florence_operator.api.attempt_pods import Pod
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.backends.choice import Installed
from florence_operator.backends.protocol import Child
from florence_operator.observe.nodes import Node
from florence_operator.observe.queue import QueuePlace


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

    kind: Literal["FlorenceJob", "Child", "Pod", "Workload", "Node"]
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
    installed: Installed = field(default_factory=Installed)
    """Which kinds of children the cluster takes, and this operator follows."""
    queue: Mapping[str, QueuePlace] = field(default_factory=dict)
    """By child."""
    progress: Mapping[tuple[str, int], Report] = field(default_factory=dict)
    """By stage and attempt."""
    refusals: Mapping[str, Refusal] = field(default_factory=dict)
    """By stage: what the API server said just now."""
    removal: Removal | None = None
    """None while there is no Job that deletes the artifacts."""
    namespace_terminating: bool = False
    strikes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """When attempts of any job ended through a node's fault (Unix seconds), by node."""
    pool: Mapping[str, Node] = field(default_factory=dict)
    """Every node, where they may be read."""
    hears_since: float = 0.0
    """Since when this operator leads, and pods can reach it (Unix seconds)."""
    answered: frozenset[Question] = frozenset()
    """What the API server has been asked for this look; the answers are among the rest."""
