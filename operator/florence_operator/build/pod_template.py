"""The pods of an attempt: what runs in them, what they get and what they may not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from florence_operator.api.duration import seconds
from florence_operator.api.v1alpha1 import FlorenceJob, Stage
from florence_operator.kube.pod_security import container_security, pod_security
from florence_operator.kube.quantities import quantity
from florence_operator.settings import OperatorConfiguration

PLAN_FILE = "stage.json"
CA_FILE = "ca.crt"
PLAN_ANNOTATION = "florence.dev/plan"
CA_ANNOTATION = "florence.dev/ca"
"""Who signs the progress server's certificate, in PEM; pods see a change in a minute or so."""
ANNOTATIONS_SIZE = 256 * 1024
"""What the API server takes of all annotations of a pod, keys and values together."""
CONFIG_FOLDER = "/etc/florence"
TOKEN_FOLDER = "/var/run/secrets/florence"
GPU = "nvidia.com/gpu"
_TOKEN_SECONDS = 3600
_STORAGE_KEYS = {"AWS_ACCESS_KEY_ID": False, "AWS_SECRET_ACCESS_KEY": False}
_STORAGE_KEYS_ALSO = {"AWS_SESSION_TOKEN": True}
_TRACKING_KEYS = {
    "MLFLOW_TRACKING_USERNAME": True,
    "MLFLOW_TRACKING_PASSWORD": True,
    "MLFLOW_TRACKING_TOKEN": True,
}

Document = dict[str, Any]


def pod_template(
    job: FlorenceJob,
    stage: Stage,
    attempt: int,
    settings: OperatorConfiguration,
    *,
    container: str,
    labels: dict[str, str],
    annotations: dict[str, str],
    avoid_nodes: Sequence[str],
    forbid_nodes: Sequence[str] = (),
) -> Document:
    """The template of an attempt's pods; ``annotations`` become the files that they read first."""
    pods, pool = job.spec.pods, job.spec.node_pool
    spec: Document = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": seconds(job.spec.run_policy.grace_period),
        "securityContext": pod_security(),
        "affinity": _affinity(labels, avoid_nodes, forbid_nodes),
        "containers": [_container(job, stage, attempt, settings, container)],
        "volumes": _volumes(job, stage, settings),
    }
    if pods.service_account:
        spec["serviceAccountName"] = pods.service_account
    if pods.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in pods.image_pull_secrets]
    if pool.selector:
        spec["nodeSelector"] = dict(pool.selector)
    if pool.tolerations:
        spec["tolerations"] = [toleration.wire() for toleration in pool.tolerations]
    return {
        "metadata": {
            "labels": {**pods.labels, **labels},
            "annotations": {
                **pods.annotations,
                **annotations,
                "sidecar.istio.io/inject": "false",
            },
        },
        "spec": spec,
    }


def storage_environment(job: FlorenceJob) -> list[Document]:
    """The variables with the credentials of the artifacts' store, as references to a Secret."""
    return _from_secret(
        job.spec.artifacts.credentials_secret, {**_STORAGE_KEYS, **_STORAGE_KEYS_ALSO}
    )


def _from_secret(secret: str | None, keys: dict[str, bool]) -> list[Document]:
    """One variable for each key; the value of ``keys`` says whether it may be missing."""
    if not secret:
        return []
    return [
        {
            "name": key,
            "valueFrom": {
                "secretKeyRef": {
                    "name": secret,
                    "key": key,
                    **({"optional": True} if optional else {}),
                }
            },
        }
        for key, optional in keys.items()
    ]


def _container(
    job: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration, name: str
) -> Document:
    container: Document = {
        "name": name,
        "image": job.spec.image or settings.defaults.image,
        "command": ["python", "-m", "florence_jobs.pod", f"{CONFIG_FOLDER}/{PLAN_FILE}"],
        "env": _environment(job, stage, attempt, settings),
        "resources": _resources(stage, settings),
        "securityContext": container_security(),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "plan", "mountPath": CONFIG_FOLDER, "readOnly": True},
            {"name": "token", "mountPath": TOKEN_FOLDER, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "shm", "mountPath": "/dev/shm"},
            *(
                {"name": f"volume-{i}", "mountPath": v.mount_path, "readOnly": v.read_only}
                for i, v in enumerate(job.spec.pods.volumes)
            ),
        ],
    }
    if job.spec.pods.image_pull_policy:
        container["imagePullPolicy"] = job.spec.pods.image_pull_policy
    return container


def _environment(
    job: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration
) -> list[Document]:
    """The variables: what the user may change, the user's, then what nobody may change."""
    values = {"HOME": "/tmp"}
    if not stage.resources.gpus_per_worker:
        cpu = stage.resources.cpu or settings.defaults.cpu
        values["OMP_NUM_THREADS"] = str(max(1, int(quantity(cpu))))
    values |= job.spec.pods.environment
    values |= {"FLORENCE_HOME": "/tmp/florence"}
    if image := job.spec.image or settings.defaults.image:
        values["FLORENCE_IMAGE"] = image  # MLflow's tags have it; a pod cannot know its own
    fields = {
        "POD_NAME": "metadata.name",
        "POD_IP": "status.podIP",
        "NODE_NAME": "spec.nodeName",
    }
    secret = [
        *storage_environment(job),
        *_from_secret(job.spec.tracking.credentials_secret, _TRACKING_KEYS),
    ]
    taken = {*fields, *(variable["name"] for variable in secret)}
    return [
        *({"name": name, "value": value} for name, value in values.items() if name not in taken),
        *(
            {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}
            for name, path in fields.items()
        ),
        *secret,
    ]


def requests(stage: Stage, settings: OperatorConfiguration) -> dict[str, str]:
    """What one pod of a stage asks for, as Kubernetes quantities."""
    resources = stage.resources
    gpus = {GPU: str(resources.gpus_per_worker)} if resources.gpus_per_worker else {}
    return {
        "cpu": str(resources.cpu or settings.defaults.cpu),
        "memory": resources.memory or settings.defaults.memory,
        **gpus,
    }


def _resources(stage: Stage, settings: OperatorConfiguration) -> Document:
    wanted = requests(stage, settings)
    return {"requests": wanted, "limits": {k: v for k, v in wanted.items() if k != "cpu"}}


def annotation_files(files: dict[str, str]) -> Document:
    """A volume's source: files by name, each with the text of one of the pod's annotations.

    The pod is told by itself: no other object is to be made, kept and allowed for it.
    """
    items = [
        {"path": path, "fieldRef": {"fieldPath": f"metadata.annotations['{annotation}']"}}
        for path, annotation in files.items()
    ]
    return {"downwardAPI": {"items": items}}


def _volumes(job: FlorenceJob, stage: Stage, settings: OperatorConfiguration) -> list[Document]:
    memory = stage.resources.memory or settings.defaults.memory
    shared = job.spec.pods.shared_memory or f"{max(1, int(quantity(memory)) // 2 // 2**20)}Mi"
    temporary = job.spec.pods.temporary_storage or settings.defaults.temporary_storage
    token = {
        "path": "token",
        "audience": settings.progress.audience,
        "expirationSeconds": _TOKEN_SECONDS,
    }
    return [
        {"name": "plan", **annotation_files({PLAN_FILE: PLAN_ANNOTATION, CA_FILE: CA_ANNOTATION})},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": token}]}},
        {"name": "tmp", "emptyDir": {"sizeLimit": temporary}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
        *(
            {"name": f"volume-{i}", "persistentVolumeClaim": {"claimName": claim}}
            if (claim := volume.persistent_volume_claim)
            # Of any other type, one that is missing would be made, and a socket mounted.
            else {
                "name": f"volume-{i}",
                "hostPath": {"path": volume.host_path, "type": "Directory"},
            }
            for i, volume in enumerate(job.spec.pods.volumes)
        ),
    ]


def _affinity(
    labels: dict[str, str], avoid_nodes: Sequence[str], forbid_nodes: Sequence[str]
) -> Document:
    """Spread the pods over nodes, and stay away from those that the last attempt lost or blames.

    Both are wishes: on a pool without another node the job waits for that one instead of for ever.
    Where enough others remain, nodes may be forbidden.
    """
    affinity: Document = {
        "podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [
                {
                    "weight": 50,
                    "podAffinityTerm": {
                        "topologyKey": "kubernetes.io/hostname",
                        "labelSelector": {"matchLabels": dict(labels)},
                    },
                }
            ]
        }
    }
    nodes: Document = {}
    if avoid_nodes:
        nodes["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": 100, "preference": {"matchFields": _none_of(avoid_nodes)}}
        ]
    if forbid_nodes:
        nodes["requiredDuringSchedulingIgnoredDuringExecution"] = {
            "nodeSelectorTerms": [{"matchFields": _none_of(forbid_nodes)}]
        }
    return {**affinity, "nodeAffinity": nodes} if nodes else affinity


def _none_of(nodes: Sequence[str]) -> list[Document]:
    """Each of these takes one value; all of them have to hold."""
    return [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in nodes]
