"""What the time of stages went into, as a table and as a sentence."""

from __future__ import annotations

from collections.abc import Iterable

from florence_operator.api.goodput import CATEGORIES, Goodput, stage_goodput
from florence_operator.api.status import StageStatus
from florencectl.run_display import duration

WORTH_TELLING = 600
"""Seconds of held resources before which nobody asks what they went into."""
_GOOD = 0.8
_WORDS = {
    "data_stall": "waiting for data",
    "checkpoint": "saving checkpoints",
    "recompute": "steps that no checkpoint kept",
    "starting": "starting",
    "restart": "restarts",
    "stalled": "stalls",
}


def percent(goodput: Goodput | None) -> str | None:
    """The productive part of the time in which resources were held; ``None`` of no time."""
    fraction = goodput.fraction if goodput is not None else None
    return None if fraction is None else f"{100 * fraction:.0f}%"


def columns_and_rows(
    stages: Iterable[StageStatus], now: float
) -> tuple[list[str], list[list[str | None]]]:
    """A row for each stage that has begun; categories that none of them has are left out."""
    found = [(stage.name, stage_goodput(stage, now)) for stage in stages]
    known = [(name, goodput) for name, goodput in found if goodput is not None]
    used = [c for c in CATEGORIES if any(goodput.seconds[c] for _, goodput in known)]
    rows = [
        [
            name,
            percent(goodput),
            duration(goodput.total),
            *(duration(goodput.seconds[c]) if goodput.seconds[c] else None for c in used),
        ]
        for name, goodput in known
    ]
    return ["stage", "goodput", "wall", *(c.replace("_", " ") for c in used)], rows


def time_told(stage: StageStatus, now: float) -> str:
    """Where a stage's time went, when much of it went elsewhere than into training; or nothing."""
    goodput = stage_goodput(stage, now)
    if goodput is None or goodput.fraction is None or goodput.fraction >= _GOOD:
        return ""
    held = goodput.total - goodput.queued - goodput.suspended
    if held < WORTH_TELLING:
        return ""
    lost = sorted(((goodput.seconds[name], word) for name, word in _WORDS.items()), reverse=True)
    said = ", ".join(f"{duration(seconds)} {word}" for seconds, word in lost[:3] if seconds)
    return f"Of {duration(held)} with its pods, {percent(goodput)} were productive: {said}."
