"""What the metrics count, read from how the status of a job changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from florence_operator.api.goodput import attempt_goodput
from florence_operator.api.status import PROGRESS_REPORTED, Attempt, JobStatus
from florence_operator.api.times import unix
from florence_operator.reconcile.stage_view import live
from florence_operator.reconcile.status import urgent
from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.store import Key


def account(metrics: Metrics, key: Key, old: JobStatus, new: JobStatus) -> None:
    """Count what happened between two statuses of one job."""
    metrics.status_writes.labels(kind="state" if urgent(old, new) else "progress").inc()
    for attempt, before in _ended(old, new):
        spent = attempt_goodput(attempt, before, unix(attempt.completion_time) or 0.0)
        for category, seconds in spent.seconds.items():
            metrics.stage_seconds.labels(category=category).inc(seconds)
        metrics.attempts.labels(cause=attempt.cause or "Succeeded").inc()
        metrics.gpu_seconds_used.inc(attempt.gpu_seconds)
        metrics.gpu_seconds_lost.inc(attempt.lost_gpu_seconds)
        metrics.queued_seconds.observe(attempt.queued_seconds)
    commits = [
        moment
        for stage in new.stages
        if not stage.state.terminal
        for attempt in stage.attempts[-1:]
        if attempt.completion_time is None
        and (moment := unix(attempt.last_checkpoint_time)) is not None
    ]
    if commits:
        metrics.committed(key.namespace, key.name, min(commits))
    else:
        metrics.ended(key.namespace, key.name)


def _ended(old: JobStatus, new: JobStatus) -> Iterator[tuple[Attempt, float | None]]:
    """The attempts that end with the newer status, and when the ones before them had ended."""
    for stage in new.stages:
        before = old.stage(stage.name)
        last = before.last_number - (live(before) is not None)
        end = unix(stage.dropped.completion_time) if stage.dropped is not None else None
        for attempt in stage.attempts:
            if attempt.completion_time is not None and attempt.number > last:
                yield attempt, end
            end = unix(attempt.completion_time)


def stages_by_state(jobs: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many stages of all jobs are in each state."""
    return Counter(
        stage.get("state", "Pending")
        for job in jobs
        for stage in (job.get("status") or {}).get("stages") or ()
    )


def stages_not_heard(jobs: Iterable[Mapping[str, Any]]) -> int:
    """How many stages of all jobs have pods that run and do not report."""
    return sum(
        condition.get("type") == PROGRESS_REPORTED and condition.get("status") == "False"
        for job in jobs
        for stage in (job.get("status") or {}).get("stages") or ()
        for condition in stage.get("conditions") or ()
    )
