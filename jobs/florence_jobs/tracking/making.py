"""Which recorders a stage's process has."""

from __future__ import annotations

import json
import re

from florence.distributed.world import World
from florence.home import florence_home
from florence.storage import Storage
from florence_jobs.registry.references import is_reference
from florence_jobs.system_metrics import SystemSampler
from florence_jobs.tracking.events import Spill
from florence_jobs.tracking.mlflow_run import MlflowRun, RunTarget
from florence_jobs.tracking.node_metrics import NodeMetrics
from florence_jobs.tracking.recorder import Tracker
from florence_jobs.tracking.server import redacted
from florence_jobs.tracking.several import ClosableRecorder, SeveralRecorders
from florence_jobs.tracking.target import origin_of, run_target
from florence_jobs.tracking.tensorboard import TensorBoardRecorder
from florence_operator.api.stage import StagePlan


def make_recorder(plan: StagePlan, world: World, output: Storage) -> ClosableRecorder:
    """What rank 0 of a tracked plan records with.

    The first process of any other node records how busy that is; the others nothing.

    A recorder of another kind is one more class with the methods of ``Recorder``, added here.

    Args:
        output: the stage's artifacts.

    Raises:
        ConfigurationError: the plan's ``tracking.mlflowUri`` is no address MLflow tracks to.
    """
    tracking = plan.tracking
    if tracking is None or world.local_rank != 0:
        return SeveralRecorders()
    nodes = world.size // world.local_size
    sampler = SystemSampler(world.rank // world.local_size if nodes > 1 else None)
    target = run_target(plan)
    if world.rank != 0:
        return SeveralRecorders() if target is None else NodeMetrics(MlflowRun(target), sampler)
    recorders: list[ClosableRecorder] = []
    if target is not None:
        recorders.append(_tracker(plan, target, sampler))
    if tracking.tensorboard:
        recorders.append(TensorBoardRecorder(output))
    return SeveralRecorders(recorders)


def _tracker(plan: StagePlan, target: RunTarget, sampler: SystemSampler) -> Tracker:
    file = re.sub(r"[^\w.-]", "_", f"{target.job}-{plan.stage}") + ".jsonl"
    tracker = Tracker(
        MlflowRun(target),
        Spill(florence_home() / "tracking" / file),
        attempt=plan.attempt,
        where=redacted(target.uri),
        model_name=f"{plan.job}-{plan.stage}",
        planned={"model": plan.model.architecture().wire(), "stage": plan.config.wire()},
        experiment=target.experiment,
        origin=origin_of(plan, target),
        measured=plan.inputs.model if is_reference(plan.inputs.model or "") else None,
        close_timeout_s=min(60.0, max(2.0, plan.grace_seconds / 3)),
        sampler=sampler,
        description=target.description,
    )
    document = json.dumps(plan.wire(), indent=2)
    tracker.artifact(
        f"plan/attempt-{plan.attempt}.json",
        document.replace(target.uri, redacted(target.uri)).encode(),
    )
    return tracker
