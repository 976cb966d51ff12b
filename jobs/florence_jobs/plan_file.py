"""The files by which a pod's processes know what to do and how far they are; imports no torch."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from florence.config.base import first_problem
from florence.errors import ConfigurationError
from florence_operator.api.stage import StagePlan, load_plan

PROGRESS_FILE = "FLORENCE_PROGRESS_FILE"
"""Environment variable: a file that gets rank 0's newest progress."""


def read_plan(path: Path) -> StagePlan:
    """The plan in a file; what is wrong with it names the field."""
    try:
        return load_plan(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path}: the plan cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {first_problem(error)}") from None
