"""Which run of which MLflow server a plan's stage has; imports no torch."""

from __future__ import annotations

import getpass
import os

from florence_jobs.registry.tags import COMMIT, ENDPOINT, STARTED_FROM, code_tags
from florence_jobs.tracking.descriptions import of_job, of_stage
from florence_jobs.tracking.mlflow_run import RunTarget, milliseconds
from florence_jobs.tracking.server import redacted
from florence_operator.api.stage import StagePlan


def run_target(plan: StagePlan) -> RunTarget | None:
    """The run of a plan's stage; ``None`` for one that MLflow does not track."""
    tracking = plan.tracking
    if tracking is None or tracking.mlflow_uri is None:
        return None
    about = {
        "florence.name": plan.job,
        "florence.namespace": plan.namespace,
        "mlflow.source.name": f"florencejob/{plan.namespace}/{plan.job}",
        "mlflow.source.type": "JOB" if "KUBERNETES_SERVICE_HOST" in os.environ else "LOCAL",
        "mlflow.user": _user(),
        **code_tags(),
    }
    name, output = f"{plan.namespace}/{plan.job}", redacted(plan.output).rstrip("/")
    started_from = plan.inputs.checkpoint or plan.inputs.model
    of_stage_tags = {STARTED_FROM: redacted(started_from)} if started_from else {}
    return RunTarget(
        uri=tracking.mlflow_uri,
        experiment=tracking.experiment,
        job=plan.uid or f"{plan.namespace}/{plan.job}",
        stage=plan.stage,
        attempt=plan.attempt,
        name=f"{plan.job}/{plan.stage}",
        job_name=plan.job,
        run_id=tracking.run_id,
        sweep=f"{plan.namespace}/{tracking.sweep.name}" if tracking.sweep else None,
        varied=tracking.sweep.values if tracking.sweep else {},
        started=milliseconds(),
        tags={
            **about,
            **of_stage_tags,
            "florence.kind": plan.kind,
            "florence.output": redacted(plan.output),
        },
        job_tags=about,
        description=of_stage(name, plan.stage, plan.kind, output, of_stage_tags.get(STARTED_FROM)),
        job_description=of_job(name, output.rpartition("/")[0] or output),
    )


def origin_of(plan: StagePlan, target: RunTarget) -> dict[str, str]:
    """Where the final model of a plan's stage is from: tags of the registered version."""
    kept = {k: v for k, v in (target.tags or {}).items() if not k.startswith("mlflow.")}
    kept |= {k: v for k, v in (target.tags or {}).items() if k == COMMIT}
    del kept["florence.output"]
    endpoint = plan.storage.endpoint
    return {
        **kept,
        "florence.job": target.job,
        "florence.stage": target.stage,
        **({ENDPOINT: redacted(endpoint)} if endpoint else {}),
    }


def _user() -> str:
    """Whom MLflow's pages name as the creator."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):  # a pod's user has no name
        return str(os.getuid())
