"""Build what an attempt consists of: its PyTorchJob, whose pods carry the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from florence_operator.api.duration import seconds
from florence_operator.api.stage import ProgressTarget, Removal, StagePlan, plan_of
from florence_operator.api.v1alpha1 import API_VERSION, KIND, FlorenceJob, Stage
from florence_operator.observe import (
    ATTEMPT_LABEL,
    JOB_LABEL,
    QUEUE_LABEL,
    SPEC_HASH,
    STAGE_LABEL,
    UID_LABEL,
)
from florence_operator.pods import (
    CA_ANNOTATION,
    CA_FILE,
    CONFIG_FOLDER,
    PLAN_ANNOTATION,
    TOKEN_FOLDER,
    Document,
    annotation_files,
    container_security,
    pod_security,
    pod_template,
    storage_environment,
)
from florence_operator.settings import OperatorConfiguration

LONGEST_NAME = 51
"""Training Operator appends ``-worker-<index>`` and makes Services of these names: 63 in all."""
REMOVAL_FILE = "removal.json"
REMOVAL_ANNOTATION = "florence.dev/removal"
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"


def child_name(job: str, stage: str, attempt: int) -> str:
    """``<job>-<stage>-<hash>-a<attempt>``: a DNS-1035 label, shortened where it is too long.

    The hash is of both names: stage ``c`` of job ``a-b`` is not stage ``b-c`` of job ``a``.
    """
    return _name(f"{job}-{stage}", f"-{_digest(f'{job}/{stage}')}-a{attempt}")


def removal_name(job: str) -> str:
    """Name of the Job that deletes a job's artifacts."""
    return _name(job, "-removal")


def _name(body: str, suffix: str) -> str:
    whole = body if body[0].isalpha() else f"fj-{body}"
    if len(whole) + len(suffix) > LONGEST_NAME:
        digest = _digest(whole)
        kept = whole[: LONGEST_NAME - len(suffix) - len(digest) - 1].rstrip("-")
        whole = f"{kept}-{digest}"
    return whole + suffix


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]


def spec_hash(job: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration) -> str:
    """What an attempt would be made from now: its PyTorchJob with the plan, without mere hints."""
    made = _pytorch_job(job, stage, attempt, settings, ca="", avoid_nodes=())
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def artifacts_uri(job: FlorenceJob, stage: str | None = None) -> str:
    """Where a stage's artifacts go, or those of the whole job.

    The uid is part of it: a job that is deleted and applied again must not meet the records of
    its namesake, whose higher attempt numbers would keep it from committing.
    """
    base = (job.spec.artifacts.uri or "").rstrip("/")
    whole = f"{base}/{job.namespace}/{job.metadata.name}-{(job.metadata.uid or '')[:8]}"
    return f"{whole}/{stage}" if stage else whole


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


def pytorch_job(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    *,
    ca: str = "",
    avoid_nodes: Sequence[str] = (),
) -> Document:
    """The PyTorchJob of an attempt: worker-only, tried once, with a rendezvous of our own.

    The Training Operator keeps no limits for it: deadlines, retries and clean-up are the
    FlorenceJob's.

    Args:
        ca: who signs the progress server's certificate, in PEM.
    """
    document = _pytorch_job(job, stage, attempt, settings, ca=ca, avoid_nodes=avoid_nodes)
    stamp = {SPEC_HASH: spec_hash(job, stage, attempt, settings)}
    return {**document, "metadata": {**document["metadata"], "annotations": stamp}}


def _pytorch_job(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    *,
    ca: str,
    avoid_nodes: Sequence[str],
) -> Document:
    name = child_name(job.metadata.name, stage.name, attempt)
    labels = _labels(job, stage, attempt)
    policy = job.spec.run_policy
    queue = {QUEUE_LABEL: policy.queue, PRIORITY_LABEL: policy.priority_class}
    template = pod_template(
        job,
        stage,
        attempt,
        settings,
        child=name,
        labels=labels,
        annotations={
            PLAN_ANNOTATION: plan_text(job, stage, attempt, settings),
            CA_ANNOTATION: ca,
        },
        avoid_nodes=avoid_nodes,
    )
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": _metadata(job, name, {**labels, **{k: v for k, v in queue.items() if v}}),
        "spec": {
            "nprocPerNode": str(max(stage.resources.gpus_per_worker, 1)),
            "runPolicy": {"cleanPodPolicy": "Running"},
            "pytorchReplicaSpecs": {
                "Worker": {
                    "replicas": stage.resources.workers,
                    "restartPolicy": "Never",
                    "template": template,
                }
            },
        },
    }


def removal_job(job: FlorenceJob, settings: OperatorConfiguration) -> Document:
    """The Job that deletes everything a job kept in its artifacts."""
    plan = Removal(uri=artifacts_uri(job), storage=job.spec.artifacts.s3)
    labels = {JOB_LABEL: job.metadata.name}
    annotations = {
        REMOVAL_ANNOTATION: plan.model_dump_json(by_alias=True, exclude_none=True),
        "sidecar.istio.io/inject": "false",
    }
    template = {
        "metadata": {"labels": labels, "annotations": annotations},
        "spec": _removal_pod(job, settings),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(job, removal_name(job.metadata.name), labels),
        "spec": {"backoffLimit": 3, "activeDeadlineSeconds": 1800, "template": template},
    }


def _removal_pod(job: FlorenceJob, settings: OperatorConfiguration) -> Document:
    pods, pool = job.spec.pods, job.spec.node_pool
    container = {
        "name": "removal",
        "image": job.spec.image or settings.defaults.image,
        "command": [
            *("python", "-m", "florence_jobs.remove_artifacts"),
            f"{CONFIG_FOLDER}/{REMOVAL_FILE}",
        ],
        "env": [{"name": "HOME", "value": "/tmp"}, *storage_environment(job)],
        "resources": {
            "requests": {"cpu": "100m", "memory": "256Mi"},
            "limits": {"memory": "1Gi"},
        },
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "plan", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    if pods.image_pull_policy:
        container["imagePullPolicy"] = pods.image_pull_policy
    spec: Document = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [
            {"name": "plan", **annotation_files({REMOVAL_FILE: REMOVAL_ANNOTATION})},
            {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}},
        ],
    }
    if pods.service_account:
        spec["serviceAccountName"] = pods.service_account
    if pods.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": secret} for secret in pods.image_pull_secrets]
    if pool.tolerations:
        spec["tolerations"] = [toleration.wire() for toleration in pool.tolerations]
    return spec


def _labels(job: FlorenceJob, stage: Stage, attempt: int) -> dict[str, str]:
    return {
        JOB_LABEL: job.metadata.name,
        UID_LABEL: job.metadata.uid or "",
        STAGE_LABEL: stage.name,
        ATTEMPT_LABEL: str(attempt),
    }


def _metadata(job: FlorenceJob, name: str, labels: dict[str, str]) -> Document:
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": job.metadata.name,
        "uid": job.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "name": name,
        "namespace": job.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner],
    }
