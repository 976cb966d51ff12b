"""Build what an attempt consists of: its child, whose pods carry the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from florence_operator.api.labels import QUEUE_LABEL, SPEC_HASH
from florence_operator.api.v1alpha1 import FlorenceJob, Stage
from florence_operator.backends.protocol import AttemptSpec, Backend
from florence_operator.build.metadata import attempt_labels, child_metadata
from florence_operator.build.names import child_name
from florence_operator.build.plan import plan_text
from florence_operator.build.pod_template import CA_ANNOTATION, PLAN_ANNOTATION, pod_template
from florence_operator.settings import OperatorConfiguration

PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"

Document = dict[str, Any]


def spec_hash(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    backend: Backend,
) -> str:
    """What an attempt would be made from now: its objects with the plan, without mere hints."""
    spec = _attempt_spec(job, stage, attempt, settings, backend, ca="", avoid_nodes=())
    made = backend.build(spec)
    # One object alone is hashed as it was before there were several.
    text = json.dumps(made[0] if len(made) == 1 else made, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def attempt_objects(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    backend: Backend,
    *,
    ca: str = "",
    avoid_nodes: Sequence[str] = (),
    forbid_nodes: Sequence[str] = (),
) -> list[Document]:
    """The objects of an attempt, in the order in which they are made; the child is the last.

    Args:
        ca: who signs the progress server's certificate, in PEM.
        avoid_nodes: where its pods had better not run.
        forbid_nodes: where they must not.
    """
    spec = _attempt_spec(
        job,
        stage,
        attempt,
        settings,
        backend,
        ca=ca,
        avoid_nodes=avoid_nodes,
        forbid_nodes=forbid_nodes,
    )
    *others, child = backend.build(spec)
    stamp = {SPEC_HASH: spec_hash(job, stage, attempt, settings, backend)}
    return [*others, {**child, "metadata": {**child["metadata"], "annotations": stamp}}]


def _attempt_spec(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    backend: Backend,
    *,
    ca: str,
    avoid_nodes: Sequence[str],
    forbid_nodes: Sequence[str] = (),
) -> AttemptSpec:
    name = child_name(job.metadata.name, stage.name, attempt, backend.pods)
    labels = attempt_labels(job, stage, attempt)
    policy = job.spec.run_policy
    queue = {QUEUE_LABEL: policy.queue, PRIORITY_LABEL: policy.priority_class}
    template = pod_template(
        job,
        stage,
        attempt,
        settings,
        container=backend.pods.container,
        labels=labels,
        annotations={
            PLAN_ANNOTATION: plan_text(job, stage, attempt, settings),
            CA_ANNOTATION: ca,
        },
        avoid_nodes=avoid_nodes,
        forbid_nodes=forbid_nodes,
    )
    return AttemptSpec(
        metadata=child_metadata(job, name, {**labels, **{k: v for k, v in queue.items() if v}}),
        workers=stage.resources.workers,
        processes=max(stage.resources.gpus_per_worker, 1),
        template=template,
        gang=policy.gang_scheduler,
        topology=policy.topology,
    )
