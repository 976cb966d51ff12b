"""What is cheap to know about a job's data before the job starts: one look, and never torch."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from florence.config import Training
from florence.config.base import locations
from florence.errors import DataError, FlorenceError
from florencectl.output import note

if TYPE_CHECKING:
    from florence.config.storage import S3Settings
    from florence.data.opening import DataState
    from florence_operator.api import FlorenceJob

LONGEST_LOOK = 0.4
"""Seconds after which a look at the data is given up: submitting never waits for storage."""


def refuse_missing(job: FlorenceJob) -> None:
    """Refuse files and folders that a run on this machine would not find.

    Raises:
        DataError: a stage names one that does not exist; the message has the field.
    """
    for index, stage in enumerate(job.spec.stages):
        for field, uri in locations(stage):
            path = uri.removeprefix("file://")
            if "://" in path or path.startswith("builtin:"):
                continue
            if not Path(path).exists():
                raise DataError(
                    f"spec.stages[{index}].{field}: {path}: no such file or folder: check the path"
                )


def warn_of_unindexed(job: FlorenceJob, *, seconds: float | None = None) -> None:
    """Warn of training data without an index, where this machine can see it within a moment.

    Args:
        seconds: how long the look may take; default: :data:`LONGEST_LOOK`.
    """
    if importlib.util.find_spec("numpy") is None:  # the train extra
        return
    fields = dict(training_data(job))
    states = looked_at(
        list(fields), job.spec.artifacts.s3, LONGEST_LOOK if seconds is None else seconds
    )
    for state in states:
        if state.unindexed:
            note(
                f"{fields[state.uri]}: {state.unindexed} of {state.shards} shards of {state.uri} "
                "have no current index, and are read whole before training starts: run "
                f"'florencectl data index {state.uri}' once"
            )


def training_data(job: FlorenceJob) -> Iterator[tuple[str, str]]:
    """The data sets of the job's training stages, each with a field that names it."""
    for index, stage in reversed(list(enumerate(job.spec.stages))):
        if isinstance(stage.config, Training):
            yield stage.config.data, f"spec.stages[{index}].{stage.kind.name}.data"


def looked_at(uris: Sequence[str], s3: S3Settings, seconds: float) -> list[DataState]:
    """What a look at data sets says in that time; those it says nothing of are left out."""
    found: list[DataState] = []

    def look() -> None:
        from florence.data.opening import describe_data

        for uri in uris:
            try:
                found.append(describe_data(uri, s3))
            except (FlorenceError, ImportError):
                continue

    # A thread that is not waited for: a request to a server that is away takes longer to end.
    looking = threading.Thread(target=look, name="look at the data", daemon=True)
    looking.start()
    looking.join(seconds)
    return list(found)
