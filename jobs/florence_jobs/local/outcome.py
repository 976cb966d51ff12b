"""What an attempt left: why it failed or hung, and when it did not, its results."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.storage import open_storage
from florence_jobs.evidence.keeper import EvidenceKeeper, Worker
from florence_jobs.local.plans import stage_uri
from florence_jobs.local.processes import Ended
from florence_jobs.log_tail import failure_line
from florence_operator.api import FlorenceJob, StagePlan
from florence_operator.api.v1alpha1 import Artifacts

_LOG_TAIL = 256 * 1024
_LONGEST_WAIT_FOR_MLFLOW = 60.0
"""Seconds; a run that is left running is taken over by the next attempt all the same."""


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


@dataclass(frozen=True, slots=True)
class UsualDelays:
    """See :class:`florence_operator.api.retrying.Delays`: what an operator has by default."""

    first_delay: str = "5s"
    longest_delay: str = "5m"


def failure_line_of(log: Path, code: int = 1) -> str:
    """The line of a log file that says why its attempt ended with an exit code."""
    return failure_line(_tail_of(log), code)


def keep_evidence(plan: StagePlan, folder: Path, log: Path) -> EvidenceKeeper:
    """Keeps what the ranks of an attempt do that does not stop, in the folder of its log."""
    worker = Worker(
        who=f"stage '{plan.stage}', attempt {plan.attempt}, on this machine",
        index=0,
        folder=folder / "ranks",
        storage=lambda: open_storage(str(folder)),
        tail=lambda: _tail_of(log),
    )
    return EvidenceKeeper.within(plan.grace_seconds, worker)


def _tail_of(log: Path) -> bytes:
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _LOG_TAIL))
        return file.read()


def with_remedy(ended: Ended, plan: StagePlan, processes: int) -> Ended:
    """How an attempt ended, with what would fit where memory did not suffice."""
    if not ended.out_of_memory:
        return ended
    from florence_jobs.out_of_memory import advice_when_killed, host_memory

    gpus = bool(glob("/dev/nvidia[0-9]*"))
    memory = host_memory(processes)
    advice = advice_when_killed(plan, memory, processes=processes, gpus=gpus)
    return replace(ended, message=f"Out of memory: {advice}")


def end_tracked_run(plan: Path, problem: str) -> None:
    """End the MLflow run that killed processes left running; never raises.

    It is done in a process of its own: MLflow takes seconds to import, and a server that is away
    may take long to say so.

    Args:
        plan: the file with the attempt's plan.
        problem: why it ended.
    """
    command = [sys.executable, "-m", "florence_jobs.tracking.abandoned", str(plan), problem]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LONGEST_WAIT_FOR_MLFLOW,
            start_new_session=True,  # Ctrl-C is for the owner of the job
            check=False,
        )


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
