"""Decide what a local attempt is told and how many processes it gets."""

from __future__ import annotations

from florence_operator.api import FlorenceJob, Stage, StagePlan
from florence_operator.api.stage import Inputs, PlanTracking, ProgressTarget


def stage_uri(job: FlorenceJob, stage: str, default_artifacts: str) -> str:
    """``<artifacts.uri>/<namespace>/<job>/<stage>``: where a stage's artifacts go."""
    base = (job.spec.artifacts.uri or default_artifacts).rstrip("/")
    return f"{base}/{job.namespace}/{job.metadata.name}/{stage}"


def build_plan(
    job: FlorenceJob,
    stage: Stage,
    *,
    attempt: int,
    default_artifacts: str,
    default_mlflow: str,
    progress: ProgressTarget,
) -> StagePlan:
    """The plan of one attempt, as the operator would write it for a pod."""
    source = job.spec.model_source(stage)
    tracking = job.spec.tracking
    return StagePlan(
        job=job.metadata.name,
        namespace=job.namespace,
        uid=job.metadata.uid or "",
        stage=stage.name,
        attempt=attempt,
        kind=stage.kind,
        config=stage.config,
        model=job.spec.model,
        inputs=Inputs(
            checkpoint=stage_uri(job, source.name, default_artifacts) if source else None
        ),
        output=stage_uri(job, stage.name, default_artifacts),
        storage=job.spec.artifacts.s3,
        tracking=PlanTracking(
            mlflow_uri=tracking.mlflow_uri or default_mlflow,
            experiment=tracking.experiment or job.metadata.name,
        ),
        progress=progress,
    )


def local_processes(stage: Stage, available: int) -> int:
    """How many ranks to start: as asked for, as this machine has, and as share the batch evenly.

    The result of training does not depend on it (the data order and the loss are those of the
    global batch), so fewer than asked for is a matter of speed only.
    """
    most = max(1, min(stage.resources.processes, available))
    if stage.pretrain is None:
        return most
    return next(n for n in range(most, 0, -1) if stage.pretrain.batch_size % n == 0)
