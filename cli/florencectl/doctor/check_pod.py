"""A short-lived pod of a job's image that tries the job's storage and its MLflow."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from florence_operator.kube.pod_security import container_security, pod_security
from florencectl.cluster.connection import MANAGER
from florencectl.cluster.errors import server_words
from florencectl.doctor.checks import Check
from florencectl.levels import Level

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob
    from florence_operator.kube.client import Client

CONTAINER = "check"
PAUSE = 0.5
REMEDIES = {
    "storage write": "check the URI, the endpoint, the bucket and what its credentials allow",
    "storage read": "check what the credentials allow, and the bucket's policy",
    "storage delete": "without the right to delete, old checkpoints stay for ever",
    "mlflow": "check tracking.mlflowUri, and that NetworkPolicies let the pods reach it",
}

_KEYS = {
    "AWS_ACCESS_KEY_ID": False,
    "AWS_SECRET_ACCESS_KEY": False,
    "AWS_SESSION_TOKEN": True,
}


async def check_storage(
    client: Client, namespace: str, job: FlorenceJob, within: float
) -> list[Check]:
    """Try the job's storage and MLflow from inside the cluster; the pod is deleted afterwards."""
    from florence_operator.kube.client import PODS, ApiError

    name = f"florence-doctor-{uuid.uuid4().hex[:8]}"
    if not job.spec.image:
        return [_failed("the job names no image to try it with", "set spec.image", Level.WARN)]
    if not (job.spec.artifacts.uri or "").startswith("s3://"):
        return [_failed(f"spec.artifacts.uri is {job.spec.artifacts.uri}", "use s3://", Level.WARN)]
    try:
        await client.create(check_pod(job, namespace, name), manager=MANAGER)
    except ApiError as error:
        return [_failed(f"the pod was refused: {server_words(error)}", "allow such pods")]
    try:
        pod = await _ended(client, namespace, name, within)
        if pod is None:
            return [await _stuck(client, namespace, name, within)]
        lines = [line async for line in client.logs(name, namespace, container=CONTAINER)]
        return findings(lines, exit_code(pod))
    finally:
        try:
            await client.delete(PODS, name, namespace)
        except ApiError as error:
            if not error.not_found:
                raise


def check_pod(job: FlorenceJob, namespace: str, name: str) -> dict[str, Any]:
    """The pod: the job's image, credentials and nodes, and nothing that PodSecurity refuses."""
    artifacts, pods = job.spec.artifacts, job.spec.pods
    options = {
        # Where the job's own artifacts go: its credentials may be for no more.
        "--uri": f"{(artifacts.uri or '').rstrip('/')}/{namespace}",
        "--endpoint": artifacts.endpoint,
        "--region": artifacts.region,
        "--mlflow": job.spec.tracking.mlflow_uri,
    }
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": job.spec.image,
        "command": ["python", "-m", "florence_jobs.check_storage"],
        "args": [f"{option}={value}" for option, value in options.items() if value],
        "env": [{"name": "HOME", "value": "/tmp"}, *_credentials(artifacts.credentials_secret)],
        "resources": {
            "requests": {"cpu": "100m", "memory": "128Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": container_security(),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    if pods.image_pull_policy:
        container["imagePullPolicy"] = pods.image_pull_policy
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 600,
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": pod_security(),
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        "nodeSelector": dict(job.spec.node_pool.selector),
        "tolerations": [toleration.wire() for toleration in job.spec.node_pool.tolerations],
        "imagePullSecrets": [{"name": secret} for secret in pods.image_pull_secrets],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {**pods.labels, "app.kubernetes.io/name": "florence-doctor"},
            "annotations": {"sidecar.istio.io/inject": "false"},
        },
        "spec": {key: value for key, value in spec.items() if value not in ({}, [])},
    }


def findings(lines: Sequence[str], code: int | None) -> list[Check]:
    """The checks that the pod printed; what else it said when it printed none."""
    checks = []
    for line in lines:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and {"check", "ok"} <= told.keys():
            name, ok = str(told["check"]), bool(told["ok"])
            remedy = "" if ok else REMEDIES.get(name, "")
            level = Level.OK if ok else Level.FAIL
            checks.append(Check(name, level, str(told.get("message", "")), remedy))
    if checks:
        return checks
    said = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
    return [
        _failed(f"the check's pod ended with {code}: {said}", "is spec.image a florence image?")
    ]


def exit_code(pod: dict[str, Any]) -> int | None:
    """The exit code of the pod's container."""
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        code = ((container.get("state") or {}).get("terminated") or {}).get("exitCode")
        if isinstance(code, int):
            return code
    return None


def _credentials(secret: str | None) -> list[dict[str, Any]]:
    if not secret:
        return []
    return [
        {
            "name": key,
            "valueFrom": {
                "secretKeyRef": {"name": secret, "key": key, **({"optional": True} if may else {})}
            },
        }
        for key, may in _KEYS.items()
    ]


async def _ended(client: Client, namespace: str, name: str, within: float) -> dict[str, Any] | None:
    """The pod when it has ended; None when it has not in time."""
    from florence_operator.kube.client import PODS

    end = time.monotonic() + within
    while time.monotonic() < end:
        pod = await client.get(PODS, name, namespace)
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return pod
        await asyncio.sleep(PAUSE)
    return None


async def _stuck(client: Client, namespace: str, name: str, within: float) -> Check:
    from florence_operator.kube.client import PODS

    pod = await client.get(PODS, name, namespace)
    return _failed(
        f"the check's pod has not ended after {within:.0f} s: {_waiting(pod)}",
        "check spec.image and spec.nodePool, or give it more time (--timeout)",
    )


def _waiting(pod: dict[str, Any]) -> str:
    status = pod.get("status") or {}
    for container in status.get("containerStatuses") or ():
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting:
            return f"{waiting.get('reason')} {waiting.get('message', '')}".strip()
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("message", "not scheduled"))
    return f"it is {status.get('phase', 'unknown')}"


def _failed(message: str, remedy: str, level: Level = Level.FAIL) -> Check:
    return Check("storage", level, message, remedy)
