"""A namespace of a benchmark's own on the cluster in KUBECONFIG."""

from __future__ import annotations

import contextlib
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
)
from florence_operator.kube.resources import TRAIN_JOBS
from tests.benchmarks.operator_load import NAMESPACE

_EMPTIED = (FLORENCE_JOBS, PYTORCH_JOBS, TRAIN_JOBS, PODS, SERVICES, CONFIG_MAPS)


def kubectl(*arguments: str, given: str | None = None) -> str:
    """What a command of kubectl printed; its refusal ends the benchmark."""
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


@contextlib.asynccontextmanager
async def empty_namespace(client: Client) -> AsyncIterator[None]:
    """The namespace, emptied afterwards: jobs first, so that nobody makes their pods again."""
    kubectl("create", "namespace", NAMESPACE)
    try:
        yield
    finally:
        for resource in _EMPTIED:
            path = resource.path(NAMESPACE)
            # Without Kubeflow Trainer there are no TrainJobs.
            with contextlib.suppress(ApiError):
                await client.request("DELETE", path, body={"gracePeriodSeconds": 0})
        kubectl("delete", "namespace", NAMESPACE, "--timeout=600s")
