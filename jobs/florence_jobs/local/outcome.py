"""What an attempt's end means: its cause, its message, whether to try again, and its results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.storage import open_storage
from florence_jobs.local.plans import stage_uri
from florence_jobs.log_tail import failure_line
from florence_operator.api import FlorenceJob
from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.status import Attempt
from florence_operator.api.v1alpha1 import Artifacts, Retries

_LOG_TAIL = 256 * 1024


@dataclass(frozen=True, slots=True)
class Results:
    """What a finished stage left in its artifacts."""

    metrics: dict[str, float] = field(default_factory=dict)
    mlflow_run: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A picture that an evaluation kept, to try the model on."""

    image: str
    labels: tuple[str, ...]
    prompts: str | None


def may_retry(attempts: Sequence[Attempt], budget: Retries) -> bool:
    """Whether the failure of the last attempt leaves anything of its cause's budget."""
    charged = [budget_of(attempt.cause) for attempt in attempts if attempt.cause]
    last = attempts[-1].cause
    if last is None or last is Cause.STOPPED:
        return False
    limits = {Budget.APPLICATION: budget.application, Budget.INFRASTRUCTURE: budget.infrastructure}
    return charged.count(budget_of(last)) <= limits.get(budget_of(last), -1)


def failure_line_of(log: Path, code: int = 1) -> str:
    """The line of a log file that says why its attempt ended with an exit code."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _LOG_TAIL))
        return failure_line(file.read(), code)


def results_of(uri: str, artifacts: Artifacts) -> Results:
    """The metrics that a finished stage wrote; empty when there are none."""
    document = _document(uri, artifacts)
    return Results(metrics=document.get("metrics", {}), mlflow_run=document.get("mlflowRun"))


def example_of(job: FlorenceJob, default_artifacts: str) -> Example | None:
    """The picture that the job's last evaluation kept."""
    for stage in reversed(job.spec.in_order()):
        uri = stage_uri(job, stage.name, default_artifacts)
        example = _document(uri, job.spec.artifacts).get("example")
        if example:
            return Example(
                f"{uri}/{example['image']}", tuple(example["labels"]), example.get("prompts")
            )
    return None


def _document(uri: str, artifacts: Artifacts) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(open_storage(uri, artifacts.s3).read("metrics.json"))
    except (FlorenceError, ValueError):
        return {}
    return document
