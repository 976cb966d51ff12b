"""``florencectl get``, ``logs`` and ``delete``: the jobs that ran on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence.errors import ConfigurationError
from florencectl.output import Format, note, print_list
from florencectl.run_display import duration

if TYPE_CHECKING:
    from florence_jobs.local import Records
    from florence_operator.api import FlorenceJob

NOT_FOUND = 3

Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the job.")]
Output = Annotated[Format, typer.Option("-o", "--output", help="table, wide, json, yaml or name.")]


def get(
    name: Annotated[str | None, typer.Argument(help="Job; all of them when left out.")] = None,
    namespace: Namespace = "default",
    output: Output = Format.TABLE,
) -> None:
    """List the jobs of this machine, or show one."""
    records = _records()
    jobs = records.all(namespace) if name is None else [_find(records, namespace, name)]
    if not jobs and output in (Format.TABLE, Format.WIDE):
        note("no jobs on this machine")
        return
    print_list(
        [_row(job, datetime.now(UTC)) for job in jobs],
        ["name", "state", "stage", "progress", "eta", "loss", "attempts", "age"],
        output,
        wide=["checkpoint", "model"],
        documents=[job.wire(defaults=False) for job in jobs],
    )


def logs(
    name: Annotated[str, typer.Argument(help="Job.")],
    stage: Annotated[str | None, typer.Option(help="Stage; default: the last one begun.")] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Attempt; default: the last.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Lines of this rank only.")] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until it ends.")] = False,
    namespace: Namespace = "default",
) -> None:
    """Print the log of a job's stage."""
    records = _records()
    job = _find(records, namespace, name)
    chosen, number = _attempt(job, stage, attempt)
    path = records.log_file(job, chosen, number)

    def running() -> bool:
        now = records.load(namespace, name)
        status = now.status.stage(chosen) if now and now.status else None
        return bool(follow and status and status.attempts and not status.attempts[-1].ended)

    wanted = None if rank is None else f"[rank {rank}]"
    shows = True
    for line in _lines(path, running):
        if wanted and "[rank " in line:  # lines without a rank belong to the line above
            shows = wanted in line
        if shows:
            print(line, flush=follow)


def delete(
    names: Annotated[list[str], typer.Argument(help="Jobs.")],
    artifacts: Annotated[
        bool, typer.Option("--artifacts", help="Delete checkpoints, models and results as well.")
    ] = False,
    namespace: Namespace = "default",
) -> None:
    """Delete jobs of this machine; their artifacts stay unless asked for."""
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
        note(f"florencectl: job '{name}' was not found on this machine; there: {known}")
        raise typer.Exit(NOT_FOUND)
    return job


def _row(job: FlorenceJob, now: datetime) -> dict[str, Any]:
    from florence_operator.api import JobStatus, State

    status = job.status or JobStatus()
    begun = [stage for stage in status.stages if stage.attempts]
    current = begun[-1] if begun else None
    progress = current.progress if current else None
    created = job.metadata.creation_timestamp
    running = current is not None and current.state is State.RUNNING
    return {
        "name": job.metadata.name,
        "state": status.phase.value,
        "stage": current.name if current else None,
        "progress": f"{progress.step}/{progress.total}" if progress and progress.total else None,
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


def _attempt(job: FlorenceJob, stage: str | None, attempt: int | None) -> tuple[str, int]:
    """The stage and attempt whose log is meant."""
    begun = [s for s in (job.status.stages if job.status else ()) if s.attempts]
    if stage is not None:
        begun = [s for s in begun if s.name == stage]
    if not begun:
        what = f"stage '{stage}'" if stage else "any stage"
        raise ConfigurationError(f"job '{job.metadata.name}' has not begun {what}")
    numbers = [a.number for a in begun[-1].attempts]
    if attempt is not None and attempt not in numbers:
        raise ConfigurationError(
            f"stage '{begun[-1].name}' has attempts {numbers[0]} to {numbers[-1]}, not {attempt}"
        )
    return begun[-1].name, attempt or numbers[-1]


def _lines(path: Path, running: Any) -> Iterator[str]:
    """The lines of a log; while ``running()``, also those that are still written."""
    with path.open(encoding="utf-8", errors="replace") as file:
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
