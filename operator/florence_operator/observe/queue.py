"""What Kueue says about an attempt's child."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Document = Mapping[str, Any]


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
