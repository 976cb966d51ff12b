"""The Training Operator of a cluster, stopped or told other flags for a benchmark."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

from tests.benchmarks.benchmark_namespace import kubectl

TRAINING_OPERATOR = ("-n", "kubeflow", "deployment/training-operator")
RAISED = ["--kube-api-qps=200", "--kube-api-burst=400", "--controller-threads=16"]


@contextlib.contextmanager
def without_training_operator() -> Iterator[None]:
    """Stop the Training Operator and keep its webhook from refusing what it does not see."""
    name = "validator.training-operator.kubeflow.org"
    saved = json.loads(kubectl("get", "validatingwebhookconfiguration", name, "-o", "json"))
    saved["metadata"] = {"name": name, "labels": saved["metadata"].get("labels", {})}
    _scale(0)
    kubectl("delete", "validatingwebhookconfiguration", name)
    try:
        yield
    finally:
        kubectl("apply", "-f", "-", given=json.dumps(saved))
        _scale(1)


def _scale(replicas: int) -> None:
    namespace, deployment = TRAINING_OPERATOR[:2], TRAINING_OPERATOR[2]
    kubectl(*namespace, "scale", deployment, f"--replicas={replicas}")
    kubectl(*namespace, "rollout", "status", deployment, "--timeout=180s")


def restart_training_operator(flags: list[str]) -> None:
    """Start it again with these flags."""
    namespace, deployment = TRAINING_OPERATOR[:2], TRAINING_OPERATOR[2]
    patch = [{"op": "add", "path": "/spec/template/spec/containers/0/args", "value": flags}]
    kubectl(*namespace, "patch", deployment, "--type=json", "-p", json.dumps(patch))
    _scale(0)
    _scale(1)
    time.sleep(5)  # its webhook's certificate
