"""StagePlan: everything that a stage's process is told, as one JSON document."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

from pydantic import SerializeAsAny, model_validator

from florence.config import ModelConfig, StageSettings
from florence.config.base import Settings, setting
from florence.config.storage import S3Settings
from florence.kinds import KINDS
from florence_operator.api.v1alpha1 import FlorenceJob, Stage

SCHEMA_VERSION = 1
SWEEP_LABEL = "florence.dev/sweep"
"""Label of the jobs of a sweep: its name."""
SWEEP_VALUES = "florence.dev/sweep-values"
"""Annotation of such a job: the settings that vary, and its values, as JSON."""
GRACE_SECONDS = 30.0


class Inputs(Settings):
    """What the stage starts from."""

    checkpoint: str | None = setting(
        None, description="URI of the stage whose final model this one starts from"
    )
    model: str | None = setting(
        None, description="URI of a model outside the job that the stage starts from"
    )


class SweepMember(Settings):
    """What a job of a sweep is among the others."""

    name: str = setting(description="name of the sweep")
    values: dict[str, str] = setting({}, description="settings that vary, and this job's values")


class PlanTracking(Settings):
    """Where the stage's metrics go."""

    mlflow_uri: str | None = setting(None, description="MLflow tracking URI; none tracks nothing")
    experiment: str = setting(description="MLflow experiment")
    tensorboard: bool = setting(False, description="whether TensorBoard logs are written too")
    sweep: SweepMember | None = setting(None, description="the sweep that the job is of")
    run_id: str | None = setting(
        None, description="run to continue; none finds it by job and stage, or makes it"
    )


class ProgressTarget(Settings):
    """Where the stage reports how far it is."""

    url: str = setting(description="URL that takes POSTed progress")
    token_file: str | None = setting(None, description="file with the bearer token")
    ca_file: str | None = setting(
        None, description="certificates that the server's is checked against"
    )
    interval_seconds: float = setting(5.0, description="time between reports", unit="seconds", gt=0)


class StagePlan(Settings):
    """One attempt of one stage."""

    schema_version: Literal[1] = setting(SCHEMA_VERSION, description="version of this document")
    job: str = setting(description="name of the job")
    namespace: str = setting(description="namespace of the job")
    uid: str = setting(description="uid of the job")
    stage: str = setting(description="name of the stage")
    attempt: int = setting(description="1 for the first", ge=1)
    kind: str = setting(description="what the stage does; says how config is read")
    config: SerializeAsAny[StageSettings] = setting(description="settings of the stage's kind")
    model: ModelConfig = setting(description="architecture of the model")
    inputs: Inputs = setting(Inputs(), description="what the stage starts from")
    output: str = setting(description="URI of the stage's artifacts")
    storage: S3Settings = setting(S3Settings(), description="S3 service of data and artifacts")
    tracking: PlanTracking | None = setting(None, description="where metrics go")
    progress: ProgressTarget | None = setting(None, description="where progress goes")
    grace_seconds: float = setting(
        GRACE_SECONDS, description="time from SIGTERM to SIGKILL", unit="seconds", gt=0
    )

    @model_validator(mode="before")
    @classmethod
    def _config_is_of_its_kind(cls, values: Any) -> Any:
        """Read ``config`` as the kind says: another kind's settings may look just the same."""
        if not isinstance(values, dict) or not isinstance(values.get("config"), dict):
            return values
        name = values.get("kind")
        if name not in KINDS:
            raise ValueError(f"kind: '{name}' is none of {', '.join(KINDS)}")
        return {**values, "config": KINDS[name].settings.model_validate(values["config"])}


def plan_of(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    *,
    uri_of: Callable[[str], str],
    mlflow_uri: str | None,
    progress: ProgressTarget | None,
    grace_seconds: float,
) -> StagePlan:
    """The plan of an attempt, whoever runs it.

    Args:
        uri_of: where the artifacts of a stage, given by name, go.
        mlflow_uri: tracking server; none tracks nothing.
    """
    source = job.spec.model_source(stage)
    tracking = job.spec.tracking
    return StagePlan(
        job=job.metadata.name,
        namespace=job.namespace,
        uid=job.metadata.uid or "",
        stage=stage.name,
        attempt=attempt,
        kind=stage.kind.name,
        config=stage.config,
        model=job.spec.model,
        inputs=Inputs(
            checkpoint=uri_of(source.name) if source else None,
            model=job.spec.initial_model(stage),
        ),
        output=uri_of(stage.name),
        storage=job.spec.artifacts.s3,
        tracking=PlanTracking(
            mlflow_uri=mlflow_uri,
            experiment=tracking.experiment,
            tensorboard=tracking.tensorboard,
            sweep=_sweep_of(job),
        )
        if mlflow_uri or tracking.tensorboard
        else None,
        progress=progress,
        grace_seconds=grace_seconds,
    )


def _sweep_of(job: FlorenceJob) -> SweepMember | None:
    name = job.metadata.labels.get(SWEEP_LABEL)
    if name is None:
        return None
    try:
        values = json.loads(job.metadata.annotations.get(SWEEP_VALUES, "{}"))
        return SweepMember(name=name, values=values)
    except ValueError:  # somebody else's annotation: the values are for people only
        return SweepMember(name=name)


class Removal(Settings):
    """What a deleted job's artifacts are removed by."""

    uri: str = setting(description="everything below it is deleted")
    storage: S3Settings = setting(S3Settings(), description="S3 service of the artifacts")


def load_plan(text: str | bytes) -> StagePlan:
    """Read a plan; pydantic's ``ValidationError`` names what is wrong."""
    return StagePlan.model_validate_json(text)
