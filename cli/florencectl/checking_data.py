"""What is odd about a job's data, and cheap to see before it starts: one look, and never torch."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from florence.config import Training
from florence.errors import FlorenceError
from florencectl.output import note

if TYPE_CHECKING:
    from florence.config.storage import S3Settings
    from florence.data.opening import DataState
    from florence_operator.api import FlorenceJob

LONGEST_LOOK = 0.4
"""Seconds after which a look at the data is given up: submitting never waits for storage."""


def warn_of_data(job: FlorenceJob, *, seconds: float | None = None) -> None:
    """Warn of what is odd about training data, where this machine can see it within a moment.

    That is shards without an index, and batches that are larger than the data.

    Args:
        seconds: how long the look may take; default: :data:`LONGEST_LOOK`.
    """
    if importlib.util.find_spec("numpy") is None:  # the train extra
        return
    stages = list(training_data(job))
    fields = {settings.data: f"{path}.data" for path, settings in reversed(stages)}
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
    samples = {state.uri: state.samples for state in states}
    for path, settings in stages:
        count = samples.get(settings.data)
        if count is not None and settings.trains_in_steps and settings.batch_size > count:
            note(
                f"{path}.batchSize: {settings.batch_size} is more than the {count} samples of "
                f"{settings.data}: every step sees some of them more than once"
            )


def training_data(job: FlorenceJob) -> Iterator[tuple[str, Training]]:
    """The settings of the job's training stages, each with its path."""
    for index, stage in enumerate(job.spec.stages):
        if isinstance(stage.config, Training):
            yield f"spec.stages[{index}].{stage.kind.name}", stage.config


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
