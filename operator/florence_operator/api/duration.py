"""Durations as Kubernetes users write them: 90s, 10m, 2h, 7d, or several together (1h30m)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PART = re.compile(r"([0-9]+)([smhd])")

# The same for the CRD, whose refusals come before ours.
DURATION_PATTERN = "^([0-9]+[smhd])+$"


def seconds(duration: str) -> int:
    """The length of a duration in seconds; ``ValueError`` when it is not one."""
    if not duration or _PART.sub("", duration):
        raise ValueError(f"'{duration}' is not a duration: write it as 90s, 10m, 2h or 7d")
    return sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(duration))


def check_duration(duration: str) -> str:
    """The duration unchanged; ``ValueError`` when it is not one."""
    seconds(duration)
    return duration


Duration = Annotated[
    str,
    AfterValidator(check_duration),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": 64}),
]
