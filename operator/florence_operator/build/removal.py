"""The Job that deletes a job's artifacts."""

from __future__ import annotations

from typing import Any

from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.labels import JOB_LABEL
from florence_operator.api.stage import Removal
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.build.metadata import child_metadata
from florence_operator.build.names import removal_name
from florence_operator.build.pod_template import (
    CONFIG_FOLDER,
    annotation_files,
    storage_environment,
)
from florence_operator.kube.pod_security import container_security, pod_security
from florence_operator.settings import OperatorConfiguration

Document = dict[str, Any]

REMOVAL_FILE = "removal.json"
REMOVAL_ANNOTATION = "florence.dev/removal"


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
        "metadata": child_metadata(job, removal_name(job.metadata.name), labels),
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
