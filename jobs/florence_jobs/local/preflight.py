"""What a run on this machine would find out minutes later, found out before it starts."""

from __future__ import annotations

import importlib.util
import uuid

from florence.config import EngineKind, Training
from florence.config.base import locations
from florence.config.storage import S3Settings
from florence.errors import FlorenceError, MissingExtraError
from florence.storage import open_storage
from florence_jobs.local.plans import stage_uri
from florence_operator.api import FlorenceJob, Stage, State

_TRIES = 2
"""A server that is away now is told of at once: nothing is lost yet."""
_PROBE = "florence-check"


def refuse_unusable(job: FlorenceJob, default_artifacts: str) -> None:
    """Refuse what the stages that are left cannot do here: engine, artifacts, remote data.

    Raises:
        MissingExtraError: an engine is not installed.
        ConfigurationError, TransientError: storage refuses, or nobody answers there.
    """
    s3 = job.spec.artifacts.s3.model_copy(update={"attempts": _TRIES})
    asked: set[str] = set()
    for stage in job.spec.in_order():
        if job.status is not None and job.status.stage(stage.name).state is State.SUCCEEDED:
            continue
        _refuse_engine(stage)
        _refuse_unwritable(stage_uri(job, stage.name, default_artifacts), s3)
        for field, uri in locations(stage):
            bucket = uri.removeprefix("s3://").partition("/")[0]
            if uri.startswith("s3://") and bucket not in asked:
                asked.add(bucket)
                _refuse_unreachable(uri, s3, f"stage '{stage.name}', {field}")


def _refuse_engine(stage: Stage) -> None:
    config = stage.config
    asked = isinstance(config, Training) and config.engine is EngineKind.DEEPSPEED
    if asked and importlib.util.find_spec("deepspeed") is None:
        raise MissingExtraError("deepspeed", "deepspeed")


def _refuse_unwritable(uri: str, s3: S3Settings) -> None:
    storage, key = open_storage(uri, s3), f"{_PROBE}-{uuid.uuid4().hex}"
    storage.write(key, b"")
    storage.delete(key)


def _refuse_unreachable(uri: str, s3: S3Settings, where: str) -> None:
    try:
        open_storage(uri, s3).size(_PROBE)
    except FlorenceError as error:
        raise type(error)(f"{where}: {error}") from error
