"""What this machine knows of its local jobs: one folder a job, one JSON file with spec and status.

<home>/jobs/<namespace>/<job>/job.json
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
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from florence.config.base import first_problem
from florence.errors import ConfigurationError, TransientError
from florence_operator.api import FlorenceJob


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

    def all(self, namespace: str | None = None) -> list[FlorenceJob]:
        """Every local job, or those of one namespace, by namespace and name."""
        pattern = f"{namespace or '*'}/*/job.json"
        paths = sorted((self.home / "jobs").glob(pattern))
        jobs = (self.load(path.parent.parent.name, path.parent.name) for path in paths)
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
        folder = self.home / "jobs" / namespace
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / f".{name}.lock").open("w")
        except OSError as error:
            raise ConfigurationError(
                f"{folder}: cannot be written: {error.strerror}; set FLORENCE_HOME to a "
                "folder that can"
            ) from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigurationError(
                    f"job '{name}' is being run by another process of this machine: wait for "
                    "it or stop it"
                ) from None
            yield
