"""What this machine knows of its local jobs: one folder a job, one JSON file with spec and status.

<home>/jobs/<namespace>/.<job>.lock            held by the process that runs it, with its number
                        <job>/job.json
                              output              what a run in the background told
                              <stage>/a<attempt>/stage.json, log
<home>/artifacts/<namespace>/<job>/<stage>/…     unless the job says where
<home>/mlflow.db                                 unless the job names a server
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from pydantic import ValidationError

from florence.config.base import first_problem
from florence.errors import ConfigurationError, TransientError
from florence_jobs.local.interruption import in_motion, interrupted
from florence_operator.api import FlorenceJob

WORKING_DIRECTORY = "florence.dev/working-directory"
"""Annotation of a local job: what the relative paths in it are relative to."""

_TRIES = 5
"""To take a lock: whoever asks whether it is held holds it for a moment."""
_SECONDS_BETWEEN_TRIES = 0.1


class Records:
    """The local jobs under a home folder."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def mlflow_uri(self) -> str:
        """The local MLflow store."""
        return f"sqlite:///{self.home / 'mlflow.db'}"

    @property
    def artifacts_uri(self) -> str:
        """Where artifacts go when the job does not say."""
        return str(self.home / "artifacts")

    def folder(self, namespace: str, name: str) -> Path:
        """The job's folder, whether or not it exists."""
        return self.home / "jobs" / namespace / name

    def attempt_folder(self, job: FlorenceJob, stage: str, attempt: int) -> Path:
        """The folder of one attempt: its plan and its log."""
        return self.folder(job.namespace, job.metadata.name) / stage / f"a{attempt}"

    def log_file(self, job: FlorenceJob, stage: str, attempt: int) -> Path:
        """What the attempt's processes wrote to stdout and stderr."""
        return self.attempt_folder(job, stage, attempt) / "log"

    def load(self, namespace: str, name: str) -> FlorenceJob | None:
        """The job's spec and status, or ``None`` when this machine knows no such job.

        Raises:
            ConfigurationError: the record is not a FlorenceJob of this version.
        """
        path = self.folder(namespace, name) / "job.json"
        try:
            return FlorenceJob.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ConfigurationError(
                f"{path}: {first_problem(error)}; delete the job if it is of another version"
            ) from None

    def save(self, job: FlorenceJob) -> None:
        """Write the job's spec and status, whole or not at all.

        Raises:
            TransientError: the file cannot be written.
        """
        folder = self.folder(job.namespace, job.metadata.name)
        text = job.model_dump_json(by_alias=True, exclude_unset=True, exclude_none=True, indent=1)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w", dir=folder, prefix=".job-", delete=False, encoding="utf-8"
            ) as file:
                file.write(text)
            os.replace(file.name, folder / "job.json")
        except OSError as error:
            raise TransientError(
                f"{folder}: cannot be written: {error.strerror}; free space or set FLORENCE_HOME"
            ) from None

    def current(self, namespace: str, name: str) -> FlorenceJob | None:
        """The job as it is now: one that nobody runs any more is not shown as running.

        Raises:
            ConfigurationError: as :meth:`load`.
        """
        while True:
            owned = self.owner(namespace, name) is not None
            job = self.load(namespace, name)
            if job is None or owned or not in_motion(job):
                return job
            # A run that ended, or began, meanwhile has written another record.
            if self.owner(namespace, name) is None and self.load(namespace, name) == job:
                return interrupted(
                    job,
                    owner=self._last_owner(namespace, name),
                    ended=self._last_sign(namespace, name),
                )

    def output_file(self, job: FlorenceJob) -> Path:
        """What a run in the background writes to its terminal that is none."""
        return self.folder(job.namespace, job.metadata.name) / "output"

    def all(self, namespace: str | None = None) -> list[FlorenceJob]:
        """Every local job, or those of one namespace, by namespace and name."""
        pattern = f"{namespace or '*'}/*/job.json"
        paths = sorted((self.home / "jobs").glob(pattern))
        jobs = (self.current(path.parent.parent.name, path.parent.name) for path in paths)
        return [job for job in jobs if job is not None]

    def delete(self, namespace: str, name: str) -> None:
        """Forget the job: its record, plans and logs. Artifacts stay."""
        shutil.rmtree(self.folder(namespace, name), ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, namespace: str, name: str) -> Iterator[None]:
        """Hold the job, so that two runs of it never overlap.

        Raises:
            ConfigurationError: another process of this machine runs the job.
        """
        path = self._lock_file(namespace, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except OSError as error:
            raise ConfigurationError(
                f"{path.parent}: cannot be written: {error.strerror}; set FLORENCE_HOME to a "
                "folder that can"
            ) from None
        with file:
            if not _taken(file):
                raise _owned(name, _number(file))
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def refuse_owned(self, namespace: str, name: str) -> None:
        """Raise ``ConfigurationError`` if a process of this machine runs the job now."""
        owner = self.owner(namespace, name)
        if owner is not None:
            raise _owned(name, owner)

    def owner(self, namespace: str, name: str) -> int | None:
        """The process that runs the job now (0 if it did not say), or ``None``."""
        try:
            file = self._lock_file(namespace, name).open()
        except FileNotFoundError:
            return None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _number(file) or 0
        return None

    def _last_owner(self, namespace: str, name: str) -> int | None:
        try:
            with self._lock_file(namespace, name).open() as file:
                return _number(file)
        except FileNotFoundError:
            return None

    def _last_sign(self, namespace: str, name: str) -> str:
        written = (self.folder(namespace, name) / "job.json").stat().st_mtime
        return datetime.fromtimestamp(written, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _lock_file(self, namespace: str, name: str) -> Path:
        return self.home / "jobs" / namespace / f".{name}.lock"


def _owned(name: str, owner: int | None) -> ConfigurationError:
    return ConfigurationError(
        f"job '{name}' is being run by another process of this machine ({owner or '?'}): wait for "
        f"it, or stop it: florencectl stop {name} --local"
    )


def _taken(file: TextIO) -> bool:
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if left:
                time.sleep(_SECONDS_BETWEEN_TRIES)
    return False


def _number(file: TextIO) -> int | None:
    """The process number that a lock file says."""
    file.seek(0)
    text = file.read().strip()
    return int(text) if text.isdigit() else None
