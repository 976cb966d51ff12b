"""Which settings decide the parameters that training reaches.

A checkpoint is resumed only under the settings that it was made with. Which of them change speed
and memory only, and may differ between attempts, is said where each is declared
(``affects_result`` of :func:`florence.config.base.setting`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence.config import Architecture, Schedule, Training
from florence.config.base import resume_fingerprint


def stage_fingerprint(architecture: Architecture, settings: Training, data: str) -> dict[str, Any]:
    """The settings that decide the result, flat, by dotted field path.

    Args:
        data: fingerprint of the samples; where they lie does not matter.
    """
    if settings.optimizer.schedule is Schedule.PLATEAU:  # only then do evaluations decide anything
        data_and_more = {"data": data, "evaluateEverySteps": settings.evaluate_every_steps}
    else:
        data_and_more = {"data": data}
    model = {f"model.{path}": value for path, value in resume_fingerprint(architecture).items()}
    return {**resume_fingerprint(settings), **model, **data_and_more}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A phrase per setting that differs, such as ``batchSize: 64 -> 128``; empty when none does."""
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
