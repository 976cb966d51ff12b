"""A namespace of a benchmark's own on the cluster in KUBECONFIG."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator

from florence_operator.kube.client import (
    CONFIG_MAPS,
    FLORENCE_JOBS,
    PODS,
    PYTORCH_JOBS,
    SERVICES,
    ApiError,
    Client,
    Resource,
)
from florence_operator.kube.resources import TRAIN_JOBS, TRAINING_RUNTIMES
from tests.benchmarks.operator_load import NAMESPACE

_EMPTIED = (
    *(FLORENCE_JOBS, PYTORCH_JOBS, TRAIN_JOBS, TRAINING_RUNTIMES),
    *(PODS, SERVICES, CONFIG_MAPS),
)


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What a command of kubectl printed; its refusal ends the benchmark."""
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def refuse_an_operator() -> None:
    """End the benchmark where an operator of ours runs on the cluster."""
    ours = "app.kubernetes.io/name=florence-operator"
    if kubectl("get", "deployments", "-A", "-l", ours).strip():
        raise SystemExit("this cluster has a florence-operator: use one that nobody else uses")


@contextlib.asynccontextmanager
async def empty_namespace(client: Client) -> AsyncIterator[None]:
    """The namespace, emptied afterwards: jobs first, so that nobody makes their pods again.

    It stays, for a cluster with an API service that is away never finishes deleting a namespace.
    """
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    kubectl("apply", "-f", "-", given=json.dumps(namespace))
    try:
        yield
    finally:
        for resource in _EMPTIED:
            path = resource.path(NAMESPACE)
            # Without Kubeflow Trainer there are no TrainJobs.
            with contextlib.suppress(ApiError):
                await client.request("DELETE", path, body={"gracePeriodSeconds": 0})
        async with asyncio.timeout(600):
            while any([await _left(client, resource) for resource in _EMPTIED]):  # noqa: ASYNC110
                await asyncio.sleep(1)


async def _left(client: Client, resource: Resource) -> bool:
    try:
        found, _ = await client.list(resource, NAMESPACE)
    except ApiError:
        return False
    # Kubernetes puts its own back into every namespace.
    return any(each["metadata"]["name"] != "kube-root-ca.crt" for each in found)
