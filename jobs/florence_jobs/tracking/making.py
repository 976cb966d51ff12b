"""Which recorders a stage's process has."""

from __future__ import annotations

import getpass
import json
import os
import re

from florence.distributed.world import World
from florence.home import florence_home
from florence.storage import Storage
from florence_jobs.system_metrics import SystemSampler
from florence_jobs.tracking.events import Spill
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget, milliseconds
from florence_jobs.tracking.recorder import Tracker
from florence_jobs.tracking.server import redacted
from florence_jobs.tracking.several import ClosableRecorder, SeveralRecorders
from florence_jobs.tracking.tensorboard import TensorBoardRecorder
from florence_operator.api.stage import PlanTracking, StagePlan


def make_recorder(plan: StagePlan, world: World, output: Storage) -> ClosableRecorder:
    """What rank 0 of a tracked plan records with; nothing elsewhere.

    A recorder of another kind is one more class with the methods of ``Recorder``, added here.

    Args:
        output: the stage's artifacts.

    Raises:
        ConfigurationError: the plan's ``tracking.mlflowUri`` is no address MLflow tracks to.
    """
    tracking = plan.tracking
    if world.rank != 0 or tracking is None:
        return SeveralRecorders()
    recorders: list[ClosableRecorder] = []
    if tracking.mlflow_uri is not None:
        recorders.append(_tracker(plan, tracking, tracking.mlflow_uri))
    if tracking.tensorboard:
        recorders.append(TensorBoardRecorder(output))
    return SeveralRecorders(recorders)


def _tracker(plan: StagePlan, tracking: PlanTracking, uri: str) -> Tracker:
    target = _target(plan, tracking, uri)
    file = re.sub(r"[^\w.-]", "_", f"{target.job}-{plan.stage}") + ".jsonl"
    tracker = Tracker(
        MlflowRun(target),
        Spill(florence_home() / "tracking" / file),
        attempt=plan.attempt,
        where=redacted(uri),
        model_name=f"{plan.job}-{plan.stage}",
        planned={"model": plan.model.architecture().wire(), "stage": plan.config.wire()},
        close_timeout_s=min(60.0, max(2.0, plan.grace_seconds / 3)),
        sampler=SystemSampler(),
    )
    document = json.dumps(plan.wire(), indent=2)
    tracker.artifact(
        f"plan/attempt-{plan.attempt}.json", document.replace(uri, redacted(uri)).encode()
    )
    return tracker


def _target(plan: StagePlan, tracking: PlanTracking, uri: str) -> RunTarget:
    about = {
        "florence.name": plan.job,
        "florence.namespace": plan.namespace,
        "mlflow.source.name": f"florencejob/{plan.namespace}/{plan.job}",
        "mlflow.source.type": "JOB" if "KUBERNETES_SERVICE_HOST" in os.environ else "LOCAL",
        "mlflow.user": _user(),
    }
    return RunTarget(
        uri=uri,
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
