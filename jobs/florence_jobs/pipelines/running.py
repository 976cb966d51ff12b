"""Run a FlorenceJob to its end as one step: on the cluster, or on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError, FlorenceError
from florence_jobs.pipelines.results import JobResults, results_of
from florence_jobs.pipelines.watching import TERMINATED, End, ProgressLog, end_of
from florence_operator.api import FlorenceJob
from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.manifest import from_store

if TYPE_CHECKING:
    from florence_jobs.local import Records
    from florence_jobs.pipelines.cluster_jobs import ClusterJobs

HERE = "FLORENCE_PIPELINES_HERE"
"""Set where the steps of a pipeline run their jobs on this machine, not on a cluster."""


class OnTermination(StrEnum):
    """What becomes of the job when the pipeline's run is terminated."""

    SUSPEND = "suspend"
    DELETE = "delete"
    KEEP = "keep"


class JobFailedError(FlorenceError):
    """The job that a step ran has failed; the exit code is that of its stage."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.exit_code = end.code


class TerminatedError(FlorenceError):
    """The step was asked to stop, as KFP does when a run is terminated."""

    exit_code = TERMINATED


def run_job(
    job: FlorenceJob,
    *,
    on_termination: OnTermination = OnTermination.SUSPEND,
    environment: Mapping[str, str] = os.environ,
) -> JobResults:
    """Run a job to its end, telling its progress, and return what it left.

    Raises:
        JobFailedError: it failed.
        TerminatedError: the step was asked to stop.
        FlorenceError: it could not be run or watched.
    """
    if environment.get(HERE):
        return _run_here(job)
    from florence_jobs.pipelines.cluster_jobs import connected

    return run_on_cluster(connected(job.metadata.namespace or ""), job, on_termination)


def run_on_cluster(
    jobs: ClusterJobs,
    job: FlorenceJob,
    on_termination: OnTermination = OnTermination.SUSPEND,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
) -> JobResults:
    """Create the job, or take the one that an earlier start of this step created, and follow it.

    Args:
        say: told one line per change.

    Raises:
        As :func:`run_job`.
    """
    if job.spec.artifacts.uri is None or not job.spec.artifacts.uri.startswith("s3://"):
        raise ConfigurationError(
            "spec.artifacts.uri: a job on a cluster keeps its artifacts in s3://bucket/prefix"
        )
    document = job.manifest()
    document["metadata"]["namespace"] = jobs.namespace
    log = ProgressLog()
    with _terminable():
        known = jobs.create_or_adopt(document)
        name, uid = known["metadata"]["name"], known["metadata"]["uid"]
        try:
            return _followed(jobs, name, uid, log, say)
        except TerminatedError:
            with _deaf():
                _let_go(jobs, name, uid, on_termination, say)
            raise


def _followed(
    jobs: ClusterJobs, name: str, uid: str, log: ProgressLog, say: Callable[[str], None]
) -> JobResults:
    for state in jobs.states(name, uid):
        job = from_store(state)
        for line in log.lines(job):
            say(line)
        end = end_of(job)
        if end is None:
            continue
        if end.code:
            raise JobFailedError(end)
        uris = {stage.name: artifacts_uri(job, stage.name) for stage in job.spec.stages}
        return results_of(job, uris, job.spec.artifacts.s3)
    raise AssertionError("states end only by raising")


def _let_go(
    jobs: ClusterJobs,
    name: str,
    uid: str,
    on_termination: OnTermination,
    say: Callable[[str], None],
) -> None:
    if on_termination is OnTermination.SUSPEND:
        jobs.suspend(name)
        say(f"job {name}: suspended after a checkpoint; the same step goes on with it")
    elif on_termination is OnTermination.DELETE:
        jobs.delete(name, uid)
        say(f"job {name}: deleted")
    else:
        say(f"job {name}: goes on without this step")


def _run_here(job: FlorenceJob) -> JobResults:
    """Run the job as ``florencectl submit --local`` does, in this process."""
    from florence.home import florence_home
    from florence_jobs.local import LocalRunner, Records, StoppedByUserError

    records = Records(florence_home())
    known = records.current(job.namespace, job.metadata.name)
    runner = LocalRunner(records, _Teller(), processes=os.cpu_count() or 1)
    try:
        done = runner.run(known or job)
    except StoppedByUserError:
        raise TerminatedError(f"job {job.metadata.name} was stopped") from None
    end = end_of(done)
    assert end is not None
    if end.code:
        raise JobFailedError(end)
    return results_here(done, records)


def results_here(job: FlorenceJob, records: Records) -> JobResults:
    """What a finished job on this machine left."""
    from florence_jobs.local.plans import stage_uri

    uris = {s.name: stage_uri(job, s.name, records.artifacts_uri) for s in job.spec.stages}
    return results_of(job, uris, job.spec.artifacts.s3)


class _Teller:
    """Prints what a local run tells, a line per change."""

    def __init__(self) -> None:
        self._step = -1

    def stage_started(self, stage: Any, attempt: int, log: Any) -> None:
        print(f"{stage.name}: attempt {attempt} started, log in {log}", flush=True)

    def stage_progress(self, stage: Any, progress: Any) -> None:
        if progress.step != self._step and progress.total:
            self._step = progress.step
            loss = f", loss {progress.loss:.4f}" if progress.loss is not None else ""
            print(f"{stage.name}: step {progress.step} of {progress.total}{loss}", flush=True)

    def stage_ended(self, stage: Any, status: Any, seconds: float) -> None:
        print(f"{stage.name}: {status.state.value} after {seconds:.0f} s", flush=True)

    def note(self, message: str) -> None:
        print(message, flush=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises :class:`TerminatedError` within, wherever the step waits."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise TerminatedError("the run was terminated")

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _deaf() -> Iterator[None]:
    """Further SIGTERMs do nothing within: the job is being let go of."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def exit_code() -> Iterator[None]:
    """A failure that users can act on ends the process with its line and its exit code."""
    try:
        yield
    except FlorenceError as error:
        print(str(error), file=sys.stderr, flush=True)
        raise SystemExit(error.exit_code) from None
