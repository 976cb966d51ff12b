"""What ``florencectl top`` shows: every stage that is at work, and how it goes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence_operator.api import JobStatus, StageStatus, State
from florence_operator.api.goodput import stage_goodput
from florencectl.explain.time_spent import percent
from florencectl.run_display import duration

COLUMNS = [
    "name",
    "stage",
    "state",
    "phase",
    "step",
    "loss",
    "samples/s",
    "data wait",
    "memory",
    "eta",
    "checkpoint",
    "goodput",
]

AT_WORK = (State.QUEUED, State.STARTING, State.RUNNING, State.STALLED, State.RECOVERING)


@dataclass(frozen=True, slots=True)
class JobAtWork:
    """A job and what its status says, wherever it runs."""

    namespace: str
    name: str
    status: JobStatus


def rows(jobs: Iterable[JobAtWork], now: float) -> list[dict[str, Any]]:
    """A row for each stage at work, those of a job in its order; ``None`` is not known.

    Args:
        now: Unix seconds.
    """
    return [
        {
            "namespace": job.namespace,
            "name": job.name,
            "stage": stage.name,
            **_numbers(stage),
            "goodput": percent(stage_goodput(stage, now)),
        }
        for job in jobs
        for stage in job.status.stages
        if stage.state in AT_WORK
    ]


def documents(jobs: Iterable[JobAtWork], now: float) -> list[Mapping[str, Any]]:
    """The same for programs: numbers in their units, with the names of the status."""
    return [
        {
            "namespace": job.namespace,
            "name": job.name,
            "stage": stage.name,
            "state": stage.state.value,
            "attempt": stage.attempts[-1].number if stage.attempts else None,
            "progress": stage.progress.wire(defaults=False) if stage.progress else None,
            "goodput": goodput.wire() if (goodput := stage_goodput(stage, now)) else None,
        }
        for job in jobs
        for stage in job.status.stages
        if stage.state in AT_WORK
    ]


def _numbers(stage: StageStatus) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(COLUMNS[3:])
    row["state"] = stage.state.value
    progress = stage.progress
    # Until its first report a new attempt has no numbers; those of the last one are not its own.
    if progress is None or stage.state in (State.QUEUED, State.STARTING):
        return row
    row["phase"] = progress.phase
    if progress.total:
        row["step"] = f"{progress.step}/{progress.total} ({100 * progress.step // progress.total}%)"
    if progress.loss is not None:
        row["loss"] = f"{progress.loss:.4f}"
    if progress.samples_per_second:
        row["samples/s"] = f"{progress.samples_per_second:.0f}"
    if progress.data_wait is not None:
        row["data wait"] = f"{100 * progress.data_wait:.0f}%"
    if progress.memory_bytes:
        row["memory"] = f"{progress.memory_bytes / 2**30:.1f} GiB"
    if progress.eta_seconds is not None and progress.step < progress.total:
        row["eta"] = duration(progress.eta_seconds)
    if progress.checkpoint_step is not None:
        row["checkpoint"] = f"step {progress.checkpoint_step}"
    return row
