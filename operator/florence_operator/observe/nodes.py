"""Whether nodes answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from florence_operator.api.times import unix

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Whether a node answers, and since when that is so (Unix seconds)."""

    name: str
    ready: bool
    since: float


def node_from(document: Document) -> Node:
    """Whether a node is ready; one that never said so is not."""
    conditions = document.get("status", {}).get("conditions", ())
    ready: Document = next((c for c in conditions if c["type"] == "Ready"), {})
    return Node(
        name=document["metadata"]["name"],
        ready=ready.get("status") == "True",
        since=unix(ready.get("lastTransitionTime")) or 0.0,
    )
