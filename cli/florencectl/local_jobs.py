"""The jobs that ran on this machine: list and watch them, delete them."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from florencectl.cluster.errors import NotFoundError
from florencectl.output import (
    Format,
    TableStream,
    note,
    print_document,
    print_line,
    print_list,
)
from florencectl.run_display import duration

if TYPE_CHECKING:
    from florence_jobs.local import Records
    from florence_operator.api import FlorenceJob

_WIDE_COLUMNS = ["checkpoint", "model"]
_SECONDS_BETWEEN_LOOKS = 0.3
COLUMNS = ["name", "state", "stage", "progress", "eta", "loss", "attempts", "age"]


def show_jobs(names: Sequence[str], namespace: str | None, output: Format) -> None:
    """Print the named jobs, or all of a namespace; of every namespace when that is ``None``."""
    jobs = jobs_here(names, namespace)
    if not jobs and output in (Format.TABLE, Format.WIDE):
        note("no jobs on this machine")
        return
    print_list(
        [_row(job, datetime.now(UTC)) for job in jobs],
        _columns(namespace),
        output,
        wide=_WIDE_COLUMNS,
        documents=[job.wire(defaults=False) for job in jobs],
    )


def watch_jobs(names: Sequence[str], namespace: str | None, output: Format) -> None:
    """Print the jobs, then each of them again with every change, until interrupted."""
    shown = [*_columns(namespace), *(_WIDE_COLUMNS if output is Format.WIDE else ())]
    table = TableStream(shown)
    known: dict[tuple[str, str], FlorenceJob] = {}
    jobs_here(names, namespace)  # tells a misspelt name at once
    while True:
        now = {
            (job.namespace, job.metadata.name): job
            for job in records_here().all(namespace)
            if not names or job.metadata.name in names
        }
        for key in known.keys() - now.keys():
            if output in (Format.TABLE, Format.WIDE):
                row = {**_row(known[key], datetime.now(UTC)), "state": "Deleted"}
                table.add([[row[column] for column in shown]])
        for key, job in now.items():
            if job != known.get(key):
                _print_change(job, table, shown, output)
        known = now
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _print_change(
    job: FlorenceJob, table: TableStream, shown: Sequence[str], output: Format
) -> None:
    if output in (Format.TABLE, Format.WIDE):
        row = _row(job, datetime.now(UTC))
        table.add([[row[column] for column in shown]])
    elif output is Format.NAME:
        print(job.metadata.name, flush=True)
    elif output is Format.JSON:
        print_line(job.wire(defaults=False))
    else:
        print("---")
        print_document(job.wire(defaults=False), output)
        sys.stdout.flush()


def jobs_here(names: Sequence[str], namespace: str | None) -> list[FlorenceJob]:
    """The named jobs of this machine, or all of a namespace, or all when that is ``None``."""
    records = records_here()
    if names:
        return [find_job(records, namespace or "default", name) for name in names]
    return records.all(namespace)


def _columns(namespace: str | None) -> list[str]:
    return COLUMNS if namespace else ["namespace", *COLUMNS]


def names_of_jobs(namespace: str) -> list[str]:
    """The names of a namespace's jobs."""
    return [job.metadata.name for job in records_here().all(namespace)]


def stages_of(name: str, namespace: str) -> list[str]:
    """The names of a job's stages."""
    return [stage.name for stage in find_job(records_here(), namespace, name).spec.stages]


def models_of_jobs() -> list[str]:
    """The models that the jobs of this machine made, the last ones first."""
    jobs = sorted(records_here().all(), key=lambda job: job.metadata.creation_timestamp or "")
    stages = [stage for job in jobs if job.status for stage in job.status.stages]
    return [stage.model for stage in reversed(stages) if stage.model]


def delete_jobs(names: Sequence[str], namespace: str, *, artifacts: bool) -> None:
    """Delete jobs of this machine; their artifacts only when asked for or when the job says so."""
    from florence_jobs.local.removal import delete_job

    records = records_here()
    for job in [find_job(records, namespace, name) for name in names]:
        delete_job(job, records, artifacts=artifacts or job.spec.artifacts.delete_with_job)
        print(f"florencejob/{job.metadata.name} deleted")


def records_here() -> Records:
    """The jobs of this machine's home folder."""
    from florence.home import florence_home
    from florence_jobs.local import Records

    return Records(florence_home())


def find_job(records: Records, namespace: str, name: str) -> FlorenceJob:
    """A job as it is now. Raises :class:`NotFoundError`."""
    job = records.current(namespace, name)
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
        "attempts": sum(stage.last_number for stage in status.stages),
        "age": duration((now - datetime.fromisoformat(created)).total_seconds())
        if created
        else None,
        "checkpoint": progress.checkpoint if progress else None,
        "model": next((stage.model for stage in reversed(status.stages) if stage.model), None),
    }
