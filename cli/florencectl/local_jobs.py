"""The jobs that ran on this machine: list them, print their logs, delete them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florencectl.choosing import of_rank, stage_and_attempt
from florencectl.cluster.errors import NotFoundError
from florencectl.output import Format, note, print_list
from florencectl.run_display import duration

if TYPE_CHECKING:
    from florence_jobs.local import Records
    from florence_operator.api import FlorenceJob

COLUMNS = ["name", "state", "stage", "progress", "eta", "loss", "attempts", "age"]


def show_jobs(names: Sequence[str], namespace: str | None, output: Format) -> None:
    """Print the named jobs, or all of a namespace; of every namespace when that is ``None``."""
    records = _records()
    jobs = [_find(records, namespace or "default", name) for name in names]
    if not names:
        jobs = records.all(namespace)
    if not jobs and output in (Format.TABLE, Format.WIDE):
        note("no jobs on this machine")
        return
    print_list(
        [_row(job, datetime.now(UTC)) for job in jobs],
        COLUMNS if namespace else ["namespace", *COLUMNS],
        output,
        wide=["checkpoint", "model"],
        documents=[job.wire(defaults=False) for job in jobs],
    )


def names_of_jobs(namespace: str) -> list[str]:
    """The names of a namespace's jobs."""
    return [job.metadata.name for job in _records().all(namespace)]


def stages_of(name: str, namespace: str) -> list[str]:
    """The names of a job's stages."""
    return [stage.name for stage in _find(_records(), namespace, name).spec.stages]


def models_of_jobs() -> list[str]:
    """The models that the jobs of this machine made, the last ones first."""
    jobs = sorted(_records().all(), key=lambda job: job.metadata.creation_timestamp or "")
    stages = [stage for job in jobs if job.status for stage in job.status.stages]
    return [stage.model for stage in reversed(stages) if stage.model]


def print_log(
    name: str,
    namespace: str,
    *,
    stage: str | None,
    attempt: int | None,
    rank: int | None,
    follow: bool,
    tail: int | None,
) -> None:
    """Print the log of a job's stage, while it runs with ``follow``."""
    records = _records()
    job = _find(records, namespace, name)
    chosen, number = stage_and_attempt(name, job.status, stage, attempt)
    path = records.log_file(job, chosen, number)

    def running() -> bool:
        now = records.load(namespace, name)
        status = now.status.stage(chosen) if now and now.status else None
        return bool(follow and status and status.attempts and not status.attempts[-1].ended)

    wanted = of_rank(rank)
    for line in _lines(path, running, tail):
        if wanted(line):
            print(line, flush=follow)


def delete_jobs(names: Sequence[str], namespace: str, *, artifacts: bool) -> None:
    """Delete jobs of this machine; their artifacts only when asked for or when the job says so."""
    from florence_jobs.local.removal import delete_artifacts

    records = _records()
    for job in [_find(records, namespace, name) for name in names]:
        name = job.metadata.name
        with records.lock(namespace, name):
            if artifacts or job.spec.artifacts.delete_with_job:
                delete_artifacts(job, records.artifacts_uri)
            records.delete(namespace, name)
        print(f"florencejob/{name} deleted")


def _records() -> Records:
    from florence.home import florence_home
    from florence_jobs.local import Records

    return Records(florence_home())


def _find(records: Records, namespace: str, name: str) -> FlorenceJob:
    job = records.load(namespace, name)
    if job is None:
        known = ", ".join(job.metadata.name for job in records.all(namespace)) or "none"
        raise NotFoundError(f"job '{name}' was not found on this machine; there: {known}")
    return job


def _row(job: FlorenceJob, now: datetime) -> dict[str, Any]:
    from florence_operator.api import JobStatus, State
    from florence_operator.api.summary import percent_done

    status = job.status or JobStatus()
    begun = [stage for stage in status.stages if stage.attempts]
    current = begun[-1] if begun else None
    progress = current.progress if current else None
    created = job.metadata.creation_timestamp
    running = current is not None and current.state is State.RUNNING
    return {
        "namespace": job.namespace,
        "name": job.metadata.name,
        "state": status.phase.value,
        "stage": current.name if current else None,
        "progress": percent_done(job.spec, status.stages),
        "eta": duration(progress.eta_seconds)
        if running and progress and progress.eta_seconds is not None
        else None,
        "loss": f"{progress.loss:.4f}" if progress and progress.loss is not None else None,
        "attempts": sum(len(stage.attempts) for stage in status.stages),
        "age": duration((now - datetime.fromisoformat(created)).total_seconds())
        if created
        else None,
        "checkpoint": progress.checkpoint if progress else None,
        "model": next((stage.model for stage in reversed(status.stages) if stage.model), None),
    }


def _lines(path: Path, running: Callable[[], bool], tail: int | None) -> Iterator[str]:
    """The (last) lines of a log; while ``running()``, also those that are still written."""
    with path.open(encoding="utf-8", errors="replace") as file:
        if tail is not None:
            written = file.read().splitlines(keepends=True)
            yield from (line.rstrip("\n") for line in written[len(written) - tail :])
        rest = ""
        while True:
            going = running()
            for piece in iter(file.readline, ""):
                rest += piece
                if rest.endswith("\n"):
                    yield rest.rstrip("\n")
                    rest = ""
            if not going:
                break
            time.sleep(0.3)
        if rest:
            yield rest
