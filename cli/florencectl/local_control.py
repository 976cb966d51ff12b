"""Steer the jobs of this machine: stop, go on, wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from florence.errors import ConfigurationError, FlorenceError
from florence_operator.api import FlorenceJob, JobStatus, State
from florencectl.cluster.errors import FAILED, TIMED_OUT
from florencectl.cluster.following import GOALS, Teller
from florencectl.display_choice import run_display
from florencectl.local_jobs import find_job, records_here
from florencectl.output import DocumentFormat, note
from florencectl.program import local_command
from florencectl.run_display import duration

_SECONDS_BETWEEN_LOOKS = 0.2


def stop_job(name: str, namespace: str) -> str:
    """Stop a job after a checkpoint and wait until none of its processes is left; what was done.

    Raises:
        FlorenceError: it is over.
    """
    from florence_jobs.local.processes import end_processes, stage_processes
    from florence_operator.api.stage import GRACE_SECONDS

    records = records_here()
    job = find_job(records, namespace, name)
    owner = records.owner(namespace, name)
    folder = records.folder(namespace, name)
    if owner:
        note(f"{name}: asking process {owner} to stop after a checkpoint")
        os.kill(owner, signal.SIGTERM)
        while records.owner(namespace, name) == owner:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        return _outcome(find_job(records, namespace, name))
    if stage_processes(folder):
        note(f"{name}: its run is gone, its processes are stopped after a checkpoint")
        end_processes(folder, grace=GRACE_SECONDS)
        return "stopped"
    state = _status(job).phase
    if state is State.SUSPENDED:
        return "stopped already"
    raise FlorenceError(f"job '{name}' is not running (it is {state.value}): nothing to stop")


def _outcome(job: FlorenceJob) -> str:
    status = _status(job)
    if status.phase is not State.SUSPENDED:
        return f"ended before it was stopped ({status.phase.value})"
    stopped = next((s for s in status.stages if s.state is State.SUSPENDED), None)
    step = stopped.progress.checkpoint_step if stopped and stopped.progress else None
    at = f" at step {step}" if step else ", nothing is kept of its stage"
    resume = local_command("resume", job.namespace, job.metadata.name)
    return f"stopped{at}; '{resume}' goes on"


def resume_job(
    name: str, namespace: str, *, processes: int | None, detach: bool, failed_only: bool = False
) -> int:
    """Run what is left of a job, from where it was submitted; the exit code.

    Args:
        name: the job.
        namespace: its namespace.
        processes: ranks at most.
        detach: let it run on in the background.
        failed_only: refuse a job that has not failed.

    Raises:
        FlorenceError: it is over, or being run, or cannot run here.
    """
    from florence_jobs.local.records import WORKING_DIRECTORY
    from florencectl.local_run import go_on

    records = records_here()
    job = find_job(records, namespace, name)
    records.refuse_owned(namespace, name)
    state = _status(job).phase
    if state is State.SUCCEEDED:
        raise FlorenceError(f"job '{name}' is over ({state.value}): it cannot be resumed")
    if failed_only and state is not State.FAILED:
        raise FlorenceError(f"job '{name}' is {state.value}: only a failed job can be retried")
    directory = job.metadata.annotations.get(WORKING_DIRECTORY)
    if directory is not None:
        if not Path(directory).is_dir():
            raise ConfigurationError(f"{directory}: the job was submitted there, and it is gone")
        os.chdir(directory)
    return go_on(records, job, processes=processes, output=DocumentFormat.TABLE, detach=detach)


def wait_for_job(name: str, namespace: str, goal: str, timeout: float | None) -> int:
    """Wait until the job is in a state of ``goal`` and return the exit code; tell why it is not."""
    records, teller = records_here(), Teller(run_display())
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    while True:
        status = _status(find_job(records, namespace, name))
        teller.tell(status)
        why = f"'{local_command('why', namespace, name)}' tells why"
        if status.phase in GOALS[goal]:
            failed = status.phase is State.FAILED and State.SUCCEEDED in GOALS[goal]
            return FAILED if failed else 0
        if status.phase.terminal:
            note(f"job '{name}' is over ({status.phase.value}); {why}")
            return FAILED
        if time.monotonic() >= deadline:
            note(
                f"waited {duration(timeout or 0)} for job '{name}' ({goal}): it is "
                f"{status.phase.value}; {why}"
            )
            return TIMED_OUT
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _status(job: FlorenceJob) -> JobStatus:
    return job.status or JobStatus()
