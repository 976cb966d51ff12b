"""What Kueue says about a job that waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.api.child_kinds import PYTORCH_JOB
from florencectl.explain.snapshot import Snapshot
from florencectl.program import program_name

_POSITION = "positionInClusterQueue"


def queue_sentences(
    facts: Snapshot, child: str | None, queue: str | None, kind: str = PYTORCH_JOB.name
) -> list[str]:
    """Why a child is not admitted yet, as far as Kueue tells; empty when it tells nothing."""
    if facts.queues is not None and queue:
        found = [q["metadata"]["name"] for q in facts.queues]
        if queue not in found:
            there = f"; there: {', '.join(found)}" if found else " and no other either"
            return [
                f"There is no LocalQueue '{queue}' in its namespace{there}: whoever runs the "
                "cluster makes one, or set spec.runPolicy.queue to one that exists."
            ]
        stopped = _inactive(facts, queue)
        if stopped:
            return [f"The queue takes nothing now: {stopped}."]
    workload = facts.workload_of(child)
    if workload is None:
        if facts.workloads is None:
            return []
        return [
            f"Kueue has made no Workload of it yet: if that lasts, its {kind} integration is off "
            f"('{program_name()} doctor' checks it)."
        ]
    if (workload.get("spec") or {}).get("active") is False:
        return ["Its Workload was deactivated: set spec.active of the Workload to true again."]
    return _conditions(workload)


def _inactive(facts: Snapshot, queue: str) -> str:
    for document in facts.queues or ():
        if document["metadata"]["name"] == queue:
            for condition in (document.get("status") or {}).get("conditions") or ():
                if condition.get("type") == "Active" and condition.get("status") == "False":
                    return str(condition.get("message", "it is not active")).rstrip(".")
    return ""


def _conditions(workload: Mapping[str, Any]) -> list[str]:
    status = workload.get("status") or {}
    sentences = []
    for condition in status.get("conditions") or ():
        kind, true = condition.get("type"), condition.get("status") == "True"
        message = str(condition.get("message", "")).strip().rstrip(".")
        if kind == "QuotaReserved" and not true and message:
            sentences.append(f"Kueue says: {message}.")
        elif kind == "Evicted" and true and message:
            sentences.append(f"It was taken out of the pool: {message}.")
    position = status.get(_POSITION)
    if isinstance(position, int):
        before = "it is the next" if position == 0 else f"{position} are before it"
        sentences.append(f"In its queue {before}.")
    return sentences
