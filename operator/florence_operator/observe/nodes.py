"""Whether nodes answer, and what pods they may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from florence_operator.api.times import unix

Document = Mapping[str, Any]
_OF_THE_NODE = "node.kubernetes.io/"
"""Prefix of the taints that say what the node's conditions say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Whether a node answers, and since when that is so (Unix seconds)."""

    name: str
    ready: bool
    since: float
    schedulable: bool = True
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)
    taints: tuple[Document, ...] = field(default=(), compare=False)
    allocatable: Mapping[str, str] = field(default_factory=dict, compare=False)
    """What its pods may have together, as Kubernetes quantities."""


def node_from(document: Document) -> Node:
    """Whether a node is ready; one that never said so is not."""
    metadata, spec = document["metadata"], document.get("spec") or {}
    status = document.get("status") or {}
    ready: Document = next((c for c in status.get("conditions", ()) if c["type"] == "Ready"), {})
    return Node(
        name=metadata["name"],
        ready=ready.get("status") == "True",
        since=unix(ready.get("lastTransitionTime")) or 0.0,
        schedulable=not spec.get("unschedulable"),
        labels=metadata.get("labels") or {},
        taints=tuple(
            taint
            for taint in spec.get("taints") or ()
            if taint.get("effect") != "PreferNoSchedule"
            and not str(taint.get("key", "")).startswith(_OF_THE_NODE)
        ),
        allocatable=status.get("allocatable") or {},
    )


class NodeRecords:
    """Every node as it was observed last: what a cache of nodes tells is read once."""

    def __init__(self) -> None:
        self.by_name: dict[str, Node] = {}

    def take(self, old: Document | None, new: Document | None) -> None:
        """A node changed, came or went; a handler of its cache."""
        if new is not None:
            self.by_name[new["metadata"]["name"]] = node_from(new)
        elif old is not None:
            self.by_name.pop(old["metadata"]["name"], None)
