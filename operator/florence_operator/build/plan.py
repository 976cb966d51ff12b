"""The plan that the pods of an attempt read, and where its artifacts go."""

from __future__ import annotations

from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.duration import seconds
from florence_operator.api.stage import ProgressTarget, StagePlan, plan_of
from florence_operator.api.v1alpha1 import FlorenceJob, Stage
from florence_operator.build.pod_template import CA_FILE, CONFIG_FOLDER, TOKEN_FOLDER
from florence_operator.settings import OperatorConfiguration


def build_plan(
    job: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration
) -> StagePlan:
    """What the pods of an attempt are told."""
    grace = seconds(job.spec.run_policy.grace_period)
    reported = (
        ProgressTarget(
            url=f"{settings.progress.url.rstrip('/')}/progress",
            token_file=f"{TOKEN_FOLDER}/token",
            ca_file=f"{CONFIG_FOLDER}/{CA_FILE}",
            interval_seconds=settings.progress.interval_seconds,
        )
        if settings.progress.url
        else None
    )
    return plan_of(
        job,
        stage,
        attempt,
        uri_of=lambda name: artifacts_uri(job, name),
        mlflow_uri=job.spec.tracking.mlflow_uri or settings.defaults.mlflow_uri,
        progress=reported,
        # What is left of the grace period is for the agent to end and the log to be kept.
        grace_seconds=max(1.0, grace - min(5.0, 0.2 * grace)),
    )


def plan_text(job: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration) -> str:
    """The plan as the pods of an attempt read it."""
    plan = build_plan(job, stage, attempt, settings)
    return plan.model_dump_json(by_alias=True, exclude_none=True)
