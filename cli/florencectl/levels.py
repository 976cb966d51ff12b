"""How checks end, whatever they look at."""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    """How a check ended."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"
