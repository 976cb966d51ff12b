"""Run a FlorenceJob's stages one after another on this machine, as an operator does in pods."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from florence.config.progress import StageProgress
from florence_jobs.local.outcome import failure_line_of, may_retry, results_of
from florence_jobs.local.plans import build_plan, local_processes, stage_uri
from florence_jobs.local.progress_server import ProgressServer
from florence_jobs.local.records import Records
from florence_operator.api import FlorenceJob, JobStatus, Stage, StageStatus, State
from florence_operator.api.failure import cause_of_exit
from florence_operator.api.stage import ProgressTarget, StagePlan
from florence_operator.api.status import Attempt

_SECONDS_BETWEEN_RECORDS = 2.0
_SECONDS_BETWEEN_REPORTS = 0.5


class StoppedByUserError(Exception):
    """The user interrupted the run; the current stage stopped after a checkpoint."""


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
        clock: Unix seconds.
    """

    def __init__(
        self,
        records: Records,
        observer: Observer,
        *,
        processes: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._records = records
        self._observer = observer
        self._processes = processes
        self._clock = clock
        self._changing = threading.RLock()
        self._saved = 0.0

    def run(self, job: FlorenceJob) -> FlorenceJob:
        """Run what of the job has not succeeded yet, and return the job with its status.

        Raises:
            StoppedByUserError: Ctrl-C; the record says Suspended and a later run continues.
            FlorenceError: the record or the job's lock cannot be had.
        """
        with self._records.lock(job.namespace, job.metadata.name):
            self._job = self._begun(job)
            self._save()
            try:
                for stage in self._job.spec.in_order():
                    if self._status(stage).state is not State.SUCCEEDED and not self._run_stage(
                        stage
                    ):
                        break
            except StoppedByUserError:
                self._finish(State.SUSPENDED)
                raise
            failed = any(stage.state is not State.SUCCEEDED for stage in self._job_status.stages)
            self._finish(State.FAILED if failed else State.SUCCEEDED)
            return self._job

    def _begun(self, job: FlorenceJob) -> FlorenceJob:
        known = job.status or JobStatus()
        status = known.model_copy(
            update={
                "phase": State.RUNNING,
                "started": known.started or self._now(),
                "stages": tuple(known.stage(stage.name) for stage in job.spec.stages),
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
            number = len(self._status(stage).attempts) + 1
            code = self._attempt(stage, number)
            if code == 0:
                self._succeed(stage)
            elif code == 143:
                self._set(stage, state=State.SUSPENDED)
            elif may_retry(self._status(stage).attempts, self._job.spec.run_policy.retries):
                self._set(stage, state=State.RECOVERING)
                last = self._status(stage).attempts[-1]
                self._observer.note(
                    f"{stage.name}: attempt {number} failed: {last.message}; trying again"
                )
                continue
            else:
                self._set(stage, state=State.FAILED)
            self._observer.stage_ended(stage, self._status(stage), self._clock() - started)
            if code == 143:
                raise StoppedByUserError
            return code == 0

    def _attempt(self, stage: Stage, number: int) -> int:
        folder = self._records.attempt_folder(self._job, stage.name, number)
        folder.mkdir(parents=True, exist_ok=True)
        log = self._records.log_file(self._job, stage.name, number)
        attempt = Attempt(number=number, started=self._now(), logs=str(log))
        self._set(stage, state=State.STARTING, attempts=(*self._status(stage).attempts, attempt))
        self._observer.stage_started(stage, number, log)
        with self._progress_target(folder) as target:
            plan = build_plan(
                self._job,
                stage,
                attempt=number,
                default_artifacts=self._records.artifacts_uri,
                default_mlflow=self._records.mlflow_uri,
                progress=target,
            )
            (folder / "stage.json").write_text(plan.model_dump_json(by_alias=True, indent=1))
            code = self._run_processes(plan, stage, folder / "stage.json", log)
        self._end_attempt(stage, code, log)
        return code

    def _run_processes(self, plan: StagePlan, stage: Stage, path: Path, log: Path) -> int:
        count = local_processes(stage, self._processes)
        command = [
            *(sys.executable, "-m", "florence_jobs.launch", "--standalone", "--nnodes=1"),
            *("--local-addr=127.0.0.1", f"--nproc-per-node={count}", "--max-restarts=0"),
            f"--shutdown-timeout={int(plan.grace_seconds)}",
            *("-m", "florence_jobs.main", str(path)),
        ]
        # A session of its own: Ctrl-C reaches this process alone, which asks the stage to stop.
        with log.open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(count),
                start_new_session=True,
            )
        return _wait(process, plan.grace_seconds, self._observer)

    @contextlib.contextmanager
    def _progress_target(self, folder: Path) -> Iterator[ProgressTarget]:
        token = secrets.token_urlsafe()
        token_file = folder / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(token)
        server = ProgressServer(token, self._receive)
        try:
            yield ProgressTarget(
                url=server.url,
                token_file=str(token_file),
                interval_seconds=_SECONDS_BETWEEN_REPORTS,
            )
        finally:
            server.close()
            token_file.unlink(missing_ok=True)

    def _receive(self, name: str, attempt: int, progress: StageProgress) -> None:
        with self._changing:
            stage = self._job.spec.stage(name)
            status = self._status(stage)
            if len(status.attempts) != attempt or status.attempts[-1].ended:
                return
            state = State.STARTING if progress.phase == "start" else State.RUNNING
            restored = {"restored_step": progress.restored_step}
            attempts = (*status.attempts[:-1], status.attempts[-1].model_copy(update=restored))
            self._set(stage, save=False, state=state, progress=progress, attempts=attempts)
            if self._clock() - self._saved > _SECONDS_BETWEEN_RECORDS:
                self._save()
        self._observer.stage_progress(stage, progress)

    def _end_attempt(self, stage: Stage, code: int, log: Path) -> None:
        status = self._status(stage)
        ended = status.attempts[-1].model_copy(
            update={
                "ended": self._now(),
                "exit_code": code,
                "cause": cause_of_exit(code),
                "message": failure_line_of(log, code) if code else None,
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

    def _finish(self, phase: State) -> None:
        with self._changing:
            update = {"phase": phase, "ended": self._now() if phase.terminal else None}
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
        return datetime.fromtimestamp(self._clock(), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _wait(process: subprocess.Popen[bytes], grace: float, observer: Observer) -> int:
    """The exit code of the stage; Ctrl-C asks it to stop, a second one ends it at once."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        observer.note("stopping after a checkpoint; press Ctrl-C again to stop at once")
    try:
        process.send_signal(signal.SIGTERM)
        return process.wait(timeout=grace + 10)
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return 143


def _environment(processes: int) -> dict[str, str]:
    """The stage's environment: its share of the cores, and the loopback interface for gloo."""
    threads = max(1, (os.cpu_count() or 1) // processes)
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    defaults = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": loopback,
        "PYTHONUNBUFFERED": "1",
    }
    return {**defaults, **os.environ}
