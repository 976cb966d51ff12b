"""The logs of the stages that run on this machine, and what is kept beside them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from florencectl.choosing import of_rank, stage_and_attempt, stages_meant
from florencectl.evidence import StageLogs
from florencectl.local_jobs import find_job, records_here
from florencectl.output import note

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob

_SECONDS_BETWEEN_LOOKS = 0.3


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
    """Print the log of a job's stage.

    With ``follow`` it goes on until the job ends, through retries and, where no stage is named,
    through the stages that come next.
    """
    wanted = of_rank(rank)
    look = partial(find_job, records_here(), namespace, name)
    job = _begun(look) if follow else look()
    shown: tuple[str, int] | None = stage_and_attempt(name, job.status, stage, attempt)
    while shown is not None:
        running = partial(_is_at_work, look, *shown) if follow else _never
        for line in _lines(records_here().log_file(job, *shown), running, tail):
            if wanted(line):
                print(line, flush=follow)
        if not follow or attempt is not None:
            return
        shown, tail = _next(look, stage, shown), None
        if shown is not None:
            note(f"{shown[0]}, attempt {shown[1]}:")


def kept_logs(name: str, namespace: str, stage: str | None) -> list[StageLogs]:
    """What the stages of a job kept beside their logs.

    Raises:
        ConfigurationError: the job has no such stage.
    """
    from florence.storage import FolderStorage

    records = records_here()
    job = find_job(records, namespace, name)
    found = []
    for each in stages_meant(name, [s.name for s in job.spec.stages], stage):
        storage = FolderStorage(records.attempt_folder(job, each, 1).parent)
        found.append(StageLogs(each, storage, storage.list()))
    return found


def _begun(look: Callable[[], FlorenceJob]) -> FlorenceJob:
    """The job, once its run has begun a stage; at once where nobody runs it."""
    from florence_jobs.local.interruption import in_motion

    while in_motion(job := look()) and not _attempts(job, None):
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return job


def _next(
    look: Callable[[], FlorenceJob], stage: str | None, shown: tuple[str, int]
) -> tuple[str, int] | None:
    """The attempt after the one shown, once it has begun; ``None`` when none will follow."""
    from florence_jobs.local.interruption import in_motion

    while True:
        job = look()
        begun = _attempts(job, stage)
        after = begun[begun.index(shown) + 1 :] if shown in begun else []
        if after:
            return after[0]
        over = stage is not None and job.status and job.status.stage(stage).state.terminal
        if over or not in_motion(job):
            return None
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _attempts(job: FlorenceJob, stage: str | None) -> list[tuple[str, int]]:
    """Every attempt that was begun, in the order in which a run of one machine begins them."""
    if job.status is None:
        return []
    return [
        (each.name, attempt.number)
        for each in job.spec.in_order()
        if stage in (None, each.name)
        for attempt in job.status.stage(each.name).attempts
    ]


def _is_at_work(look: Callable[[], FlorenceJob], stage: str, attempt: int) -> bool:
    status = look().status
    found = [a for a in status.stage(stage).attempts if a.number == attempt] if status else []
    return bool(found and not found[0].completion_time)


def _never() -> bool:
    return False


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
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if rest:
            yield rest
