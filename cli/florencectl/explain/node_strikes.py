"""What a job's attempts say against nodes, and which nodes its pods keep away from."""

from __future__ import annotations

from collections.abc import Iterable

from florence_operator.api.blame import strike_of
from florence_operator.api.status import StageStatus


def strikes_of(stages: Iterable[StageStatus]) -> list[tuple[str, str, str, int, str | None]]:
    """Node, reason, stage, attempt and moment of every strike of a job, oldest first."""
    found = [
        (attempt.node or "", strike.value, stage.name, attempt.number, attempt.completion_time)
        for stage in stages
        for attempt in stage.attempts
        if (strike := strike_of(attempt)) is not None
    ]
    return sorted(found, key=lambda each: each[-1] or "")


def avoided_told(stage: StageStatus) -> str:
    """Which nodes the newest attempt keeps away from, in a sentence; empty where it does not."""
    nodes = stage.attempts[-1].avoided_nodes if stage.attempts else ()
    if not nodes:
        return ""
    shown = ", ".join(nodes[:5]) + (f" and {len(nodes) - 5} more" if len(nodes) > 5 else "")
    return f"Its pods keep away from {shown}, where attempts ended again and again."
