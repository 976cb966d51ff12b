"""Which run of which MLflow server a plan's stage has; imports no torch."""

from __future__ import annotations

import getpass
import os

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
    }
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
        tags={**about, "florence.kind": plan.kind, "florence.output": redacted(plan.output)},
        job_tags=about,
    )


def _user() -> str:
    """Whom MLflow's pages name as the creator."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (OSError, KeyError):  # a pod's user has no name
        return str(os.getuid())
