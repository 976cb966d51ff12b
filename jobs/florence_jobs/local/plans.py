"""Decide what a local attempt is told and how many processes it gets."""

from __future__ import annotations

from florence.config import Training
from florence_operator.api import FlorenceJob, Stage, StagePlan
from florence_operator.api.stage import GRACE_SECONDS, ProgressTarget, plan_of

_GRACE_WITHOUT_CHECKPOINTS = 5.0
"""Seconds: nothing is kept, so there is nothing to wait for but a clean end."""


def keeps_checkpoints(stage: Stage) -> bool:
    """Whether what the stage has done is kept when it is stopped."""
    return isinstance(stage.config, Training) and stage.config.trains_in_steps


def grace(stage: Stage) -> float:
    """Seconds that the stage has to stop in."""
    return GRACE_SECONDS if keeps_checkpoints(stage) else _GRACE_WITHOUT_CHECKPOINTS


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
    return plan_of(
        job,
        stage,
        attempt,
        uri_of=lambda name: stage_uri(job, name, default_artifacts),
        mlflow_uri=job.spec.tracking.mlflow_uri or default_mlflow,
        progress=progress,
        grace_seconds=grace(stage),
    )


def local_processes(stage: Stage, available: int) -> int:
    """How many ranks to start: as asked for, as this machine has, and as share the batch evenly.

    The result of training does not depend on it (the data order and the loss are those of the
    global batch), so fewer than asked for is a matter of speed only.
    """
    most = max(1, min(stage.resources.processes, available))
    return stage.config.most_processes(most)
