"""Run a FlorenceJob's stages one after another on this machine, as an operator does in pods."""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from florence.config.progress import StageProgress
from florence.errors import StoppedError
from florence_jobs.local.interruption import interrupted
from florence_jobs.local.outcome import (
    UsualDelays,
    end_tracked_run,
    failure_line_of,
    keep_evidence,
    results_of,
    with_remedy,
)
from florence_jobs.local.plans import (
    build_plan,
    grace,
    keeps_checkpoints,
    local_processes,
    stage_uri,
)
from florence_jobs.local.processes import (
    Ended,
    end_processes,
    run_processes,
    stage_command,
    stage_environment,
    stage_processes,
)
from florence_jobs.local.progress_server import listening
from florence_jobs.local.records import Records
from florence_jobs.local.stop_signals import StopSignals
from florence_operator.api import FlorenceJob, JobStatus, Stage, StageStatus, State
from florence_operator.api.failure import Cause, cause_of_exit
from florence_operator.api.retrying import Delays, sequel
from florence_operator.api.stage import GRACE_SECONDS, StagePlan
from florence_operator.api.status import Attempt

_SECONDS_BETWEEN_RECORDS = 2.0
_SECONDS_BETWEEN_LOOKS = 0.1


class StoppedByUserError(Exception):
    """The run was asked to stop, and none of its processes is left.

    Attributes:
        signal: what asked; ``None`` when somebody asked the stage's processes themselves.
    """

    def __init__(self, number: signal.Signals | None) -> None:
        super().__init__(number)
        self.signal = number


class Observer(Protocol):
    """Who watches a local run. Methods may be called from another thread and must not raise."""

    def stage_started(self, stage: Stage, attempt: int, log: Path) -> None:
        """An attempt of a stage was started."""

    def stage_progress(self, stage: Stage, progress: StageProgress) -> None:
        """The stage told how far it is."""

    def stage_ended(self, stage: Stage, status: StageStatus, seconds: float) -> None:
        """The stage ended for good, or was stopped."""

    def note(self, message: str) -> None:
        """Something that the user should know."""


class LocalRunner:
    """Runs one job; everything that happens is written to the job's record.

    Args:
        records: where the job's record is kept.
        observer: who is told.
        processes: ranks a stage may use at most.
        delays: time between attempts.
        clock: Unix seconds.
    """

    def __init__(
        self,
        records: Records,
        observer: Observer,
        *,
        processes: int,
        delays: Delays = UsualDelays(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._delays = delays
        self._observer = observer
        self._processes = processes
        self._clock = clock
        self._changing = threading.RLock()
        self._saved = 0.0
        self._warned: set[tuple[str, int]] = set()

    def run(self, job: FlorenceJob) -> FlorenceJob:
        """Run what of the job has not succeeded yet, and return the job with its status.

        SIGINT, SIGTERM and SIGHUP stop it after a checkpoint; when it returns or raises, none of
        its processes is left.

        Raises:
            StoppedByUserError: it was stopped; the record says Suspended and a later run continues.
            FlorenceError: the record or the job's lock cannot be had.
        """
        with self._records.lock(job.namespace, job.metadata.name), StopSignals() as self._stop:
            self._job = self._begun(job)
            self._save()
            try:
                self._end_orphans()
                for stage in self._job.spec.in_order():
                    if self._status(stage).state is not State.SUCCEEDED and not self._run_stage(
                        stage
                    ):
                        break
            except StoppedByUserError:
                self._enter(State.SUSPENDED)
                raise
            failed = any(stage.state is not State.SUCCEEDED for stage in self._job_status.stages)
            self._enter(State.FAILED if failed else State.SUCCEEDED)
            return self._job

    def _end_orphans(self) -> None:
        """See that nothing of an earlier run still trains, whose owner could not see to it."""
        folder = self._folder
        left = stage_processes(folder)
        if left:
            numbers = ", ".join(str(process.pid) for process in left)
            self._observer.note(
                f"{self._job.metadata.name}: processes of an earlier run are still there "
                f"({numbers}): they stop after a checkpoint first"
            )
            end_processes(folder, grace=GRACE_SECONDS, stop=self._stop)

    @property
    def _folder(self) -> Path:
        return self._records.folder(self._job.namespace, self._job.metadata.name)

    def _begun(self, job: FlorenceJob) -> FlorenceJob:
        # Whoever holds the lock is the only one: what looks as if it ran was interrupted.
        known = interrupted(job, owner=None, ended=self._now()).status or JobStatus()
        stages = (known.stage(stage.name) for stage in job.spec.stages)
        status = known.model_copy(
            update={
                "phase": State.RUNNING,
                "start_time": known.start_time or self._now(),
                "completion_time": None,
                "stages": tuple(
                    s if s.state is State.SUCCEEDED else _with_fresh_budgets(s) for s in stages
                ),
            }
        )
        metadata = job.metadata.model_copy(
            update={
                "namespace": job.namespace,
                "uid": job.metadata.uid or str(uuid.uuid4()),
                "creation_timestamp": job.metadata.creation_timestamp or self._now(),
            }
        )
        return job.model_copy(update={"metadata": metadata, "status": status})

    def _run_stage(self, stage: Stage) -> bool:
        """Attempt the stage until it succeeds or its budget is spent; whether it succeeded."""
        started = self._clock()
        while True:
            if self._stop.requested:
                self._observer.note(f"{stage.name}: stopped; the same command goes on there")
                raise StoppedByUserError(self._stop.first)
            code = self._attempt(stage, self._status(stage).last_number + 1)
            if code == 0:
                self._succeed(stage)
            elif code == StoppedError.exit_code or self._stop.requested:
                self._set(stage, state=State.SUSPENDED, message=None)
            elif self._is_tried_again(stage):
                continue
            self._observer.stage_ended(stage, self._status(stage), self._clock() - started)
            if self._status(stage).state is State.SUSPENDED:
                raise StoppedByUserError(self._stop.first)
            return code == 0

    def _is_tried_again(self, stage: Stage) -> bool:
        """Wait until a failed stage's next attempt is due; False when there is none."""
        status = self._status(stage)
        retries = self._job.spec.run_policy.retries
        after = sequel(status, retries, self._delays)
        last = status.attempts[-1]
        # On a cluster another node may have more memory to spare; here the same would follow.
        if after.delay is None or last.cause is Cause.OUT_OF_MEMORY:
            self._set(stage, state=State.FAILED, reason=after.reason, message=last.message)
            return False
        due = self._clock() + after.delay
        self._set(
            stage,
            state=State.RECOVERING,
            reason=after.reason,
            message=after.message,
            next_attempt_time=timestamp(due),
        )
        self._enter(State.RECOVERING)
        limit = f" of {after.last}" if after.last else ""
        self._observer.note(
            f"{stage.name}: attempt {last.number} failed: {last.message}; attempt "
            f"{last.number + 1}{limit} follows in {after.delay:g} s, at "
            f"{datetime.fromtimestamp(due):%H:%M:%S}"
        )
        while self._clock() < due and not self._stop.requested:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if self._stop.requested:
            self._set(stage, state=State.SUSPENDED, next_attempt_time=None)
        self._enter(State.RUNNING)
        return True

    def _attempt(self, stage: Stage, number: int) -> int:
        folder = self._records.attempt_folder(self._job, stage.name, number)
        folder.mkdir(parents=True, exist_ok=True)
        log = self._records.log_file(self._job, stage.name, number)
        attempt = Attempt(number=number, start_time=self._now(), logs=str(log))
        self._set(
            stage,
            state=State.STARTING,
            reason=None,
            message=None,
            next_attempt_time=None,
            attempts=(*self._status(stage).attempts, attempt),
        )
        self._observer.stage_started(stage, number, log)
        with listening(folder, self._receive) as target:
            plan = build_plan(
                self._job,
                stage,
                attempt=number,
                default_artifacts=self._records.artifacts_uri,
                default_mlflow=self._records.mlflow_uri,
                progress=target,
            )
            (folder / "stage.json").write_text(plan.model_dump_json(by_alias=True, indent=1))
            ended = self._run_processes(plan, stage, folder / "stage.json", log)
        if ended.hung:
            self._observer.note(
                f"{stage.name}: its ranks had to be killed: {ended.hung}; 'florencectl evidence "
                f"{self._job.metadata.name} --local' has their stacks"
            )
        self._end_attempt(stage, ended, log)
        if ended.killed:
            end_tracked_run(folder / "stage.json", self._status(stage).attempts[-1].message or "")
        return ended.code

    def _run_processes(self, plan: StagePlan, stage: Stage, path: Path, log: Path) -> Ended:
        count = local_processes(stage, self._processes)
        command = [
            *(sys.executable, "-m", "florence_jobs.launch", "--standalone", "--nnodes=1"),
            *("--local-addr=127.0.0.1", f"--nproc-per-node={count}", "--max-restarts=0"),
            f"--shutdown-timeout={int(plan.grace_seconds)}",
            *stage_command(path),
        ]
        ended = run_processes(
            command,
            folder=self._folder,
            log=log,
            environment=stage_environment(count),
            grace=grace(stage),
            stop=self._stop,
            on_stopping=lambda: self._observer.note(self._stopping(stage)),
            evidence=keep_evidence(plan, path.parent, log),
        )
        return with_remedy(ended, plan, count)

    def _stopping(self, stage: Stage) -> str:
        first = self._stop.first
        asked = "" if first in (None, signal.SIGINT) else f" ({first.name})"
        then = (
            "after a checkpoint"
            if keeps_checkpoints(stage)
            else "now: it keeps nothing and starts over next time"
        )
        return f"{stage.name}: stopping {then}{asked}; Ctrl-C stops at once"

    def _receive(self, name: str, attempt: int, progress: StageProgress) -> None:
        with self._changing:
            stage = self._job.spec.stage(name)
            status = self._status(stage)
            if status.last_number != attempt or status.attempts[-1].completion_time:
                return
            state = State.STARTING if progress.phase == "start" else State.RUNNING
            update: dict[str, object] = {
                "restored_step": progress.restored_step,
                "step": progress.step,
                "seconds": progress.seconds,
                "last_progress_time": self._now(),
            }
            if progress.checkpoint_step not in (None, progress.restored_step):
                update["last_checkpoint_time"] = self._now()
            attempts = (*status.attempts[:-1], status.attempts[-1].model_copy(update=update))
            self._set(stage, save=False, state=state, progress=progress, attempts=attempts)
            if self._clock() - self._saved > _SECONDS_BETWEEN_RECORDS:
                self._save()
        if progress.phase == "train" and progress.unusable and (name, attempt) not in self._warned:
            self._warned.add((name, attempt))
            self._observer.note(f"{name}: {passed_over(progress)}")
        self._observer.stage_progress(stage, progress)

    def _end_attempt(self, stage: Stage, how: Ended, log: Path) -> None:
        status = self._status(stage)
        said = how.message or (failure_line_of(log, how.code) if how.code else None)
        ended = status.attempts[-1].model_copy(
            update={
                "completion_time": self._now(),
                "exit_code": how.code,
                "cause": Cause.OUT_OF_MEMORY if how.out_of_memory else cause_of_exit(how.code),
                "message": said,
            }
        )
        self._set(stage, attempts=(*status.attempts[:-1], ended))

    def _succeed(self, stage: Stage) -> None:
        uri = stage_uri(self._job, stage.name, self._records.artifacts_uri)
        results = results_of(uri, self._job.spec.artifacts)
        self._set(
            stage,
            state=State.SUCCEEDED,
            model=f"{uri}/model" if stage.model_task else None,
            metrics=results.metrics,
            mlflow_run=results.mlflow_run,
        )

    def _enter(self, phase: State) -> None:
        """Note where the job stands."""
        with self._changing:
            update = {"phase": phase, "completion_time": self._now() if phase.terminal else None}
            self._job = self._job.model_copy(
                update={"status": self._job_status.model_copy(update=update)}
            )
            self._save()

    @property
    def _job_status(self) -> JobStatus:
        assert self._job.status is not None
        return self._job.status

    def _status(self, stage: Stage) -> StageStatus:
        return self._job_status.stage(stage.name)

    def _set(self, stage: Stage, *, save: bool = True, **changes: object) -> None:
        with self._changing:
            changed = self._status(stage).model_copy(update=changes)
            stages = tuple(changed if s.name == stage.name else s for s in self._job_status.stages)
            status = self._job_status.model_copy(update={"stages": stages})
            self._job = self._job.model_copy(update={"status": status})
            if save:
                self._save()

    def _save(self) -> None:
        with self._changing:
            self._records.save(self._job)
            self._saved = self._clock()

    def _now(self) -> str:
        return timestamp(self._clock())


def timestamp(moment: float) -> str:
    """Unix seconds as Kubernetes writes them."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def passed_over(progress: StageProgress) -> str:
    """Which checkpoints an attempt could not use, and what it goes on from instead."""
    step = progress.restored_step
    start = f"it goes on from step {step}" if step else "it starts from the beginning"
    return f"{'; '.join(progress.unusable)}; {start}"


def _with_fresh_budgets(status: StageStatus) -> StageStatus:
    """Whoever starts a job again has seen why it failed: older attempts do not count."""
    return status.model_copy(
        update={
            "state": State.PENDING,
            "reason": None,
            "message": None,
            "next_attempt_time": None,
            "first_counted_attempt": status.last_number + 1,
        }
    )
