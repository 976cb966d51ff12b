"""What a step tells of a job while it runs, and how it ended; pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from florence_operator.api import FlorenceJob, JobStatus, StageStatus, State

TERMINATED = 143
"""Exit code of a step that was asked to stop."""
DELETED = 3
"""Exit code of a step whose job somebody deleted."""


@dataclass(frozen=True, slots=True)
class End:
    """How a job ended.

    Attributes:
        code: 0, or the exit code of the stage that failed, which says whose fault it was.
        message: why.
    """

    code: int
    message: str = ""


class ProgressLog:
    """Turns each state of a job into the lines that are new since the last one."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def lines(self, job: FlorenceJob) -> Iterator[str]:
        """A line for the job where its phase changed, and for every stage that changed."""
        status = job.status or JobStatus()
        now = {"": f"job {job.metadata.name}: {status.phase.value}"}
        for stage in status.stages:
            if stage.attempts or stage.state is not State.PENDING:
                now[stage.name] = stage_line(stage)
        for key, line in now.items():
            if self._said.get(key) != line:
                self._said[key] = line
                yield line


def stage_line(stage: StageStatus) -> str:
    """Where a stage stands, in one line: attempt, step, loss, time left."""
    parts = [stage.state.value]
    if len(stage.attempts) > 1:
        parts.append(f"attempt {stage.attempts[-1].number}")
    progress = stage.progress
    if progress is not None and stage.state in (State.RUNNING, State.STALLED):
        if progress.phase != "train":
            parts.append(progress.phase)
        if progress.total:
            parts.append(f"step {progress.step} of {progress.total}")
        if progress.loss is not None:
            parts.append(f"loss {progress.loss:.4f}")
        if progress.eta_seconds is not None:
            parts.append(f"{_duration(progress.eta_seconds)} left")
    if stage.state is State.SUCCEEDED:
        parts += [f"{name} {value:.4f}" for name, value in list(stage.metrics.items())[:3]]
    if stage.message and stage.state not in (State.RUNNING, State.SUCCEEDED):
        parts.append(stage.message)
    return f"{stage.name}: {', '.join(parts)}"


def end_of(job: FlorenceJob) -> End | None:
    """How the job ended; ``None`` while it goes on."""
    status = job.status
    if status is None or not status.phase.terminal:
        return None
    if status.phase is State.SUCCEEDED:
        return End(0)
    failed = next((s for s in status.stages if s.state is State.FAILED), None)
    if failed is None:
        return End(1, f"job {job.metadata.name} ended as {status.phase.value}")
    last = failed.attempts[-1] if failed.attempts else None
    why = failed.message or (last.message if last is not None else None) or failed.reason or "?"
    code = (last.exit_code if last is not None else None) or 1
    return End(code if 0 < code < 128 else 1, f"stage {failed.name} failed: {why}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
