"""Jobs that run, for tests and benchmarks of scale: children's pods, tokens and reports."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from florence_operator.api.labels import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, UID_LABEL
from florence_operator.progress.tokens import PodIdentity

AUDIENCE = "florence.dev/progress"
KEPT = (JOB_LABEL, UID_LABEL, STAGE_LABEL, ATTEMPT_LABEL)

Document = dict[str, Any]


def running_pod(child: Mapping[str, Any], phase: str = "Running", **status: Any) -> Document:
    """The pod of a child of one worker, in a phase."""
    metadata = child["metadata"]
    labels = {label: metadata["labels"][label] for label in KEPT}
    owner = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-worker-0",
            "namespace": metadata["namespace"],
            "labels": {**labels, "training.kubeflow.org/replica-index": "0"},
            "ownerReferences": [owner],
        },
        "spec": {"containers": [{"name": "pytorch", "image": "none"}]},
        "status": {"phase": phase, **status},
    }


def token_of(pod: Mapping[str, Any]) -> tuple[str, Document]:
    """A token that is bound to a pod, and what a review of it says; nobody has signed it."""
    metadata = pod["metadata"]
    who = PodIdentity(metadata["namespace"], metadata["name"], metadata["uid"])
    claims = {
        "kubernetes.io": {"namespace": who.namespace, "pod": {"name": who.name, "uid": who.uid}}
    }
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    user = {
        "username": f"system:serviceaccount:{who.namespace}:default",
        "extra": {
            "authentication.kubernetes.io/pod-name": [who.name],
            "authentication.kubernetes.io/pod-uid": [who.uid],
        },
    }
    return f"x.{payload}.x", {"authenticated": True, "audiences": [AUDIENCE], "user": user}


def report_of(pod: Mapping[str, Any], step: int) -> Document:
    """What worker 0 posts after a step, as long as such reports are."""
    metadata, labels = pod["metadata"], pod["metadata"]["labels"]
    seconds = {"train": 1.25 * step, "dataWait": 0.1 * step, "kept": 1.25 * (step // 10) * 10}
    progress = {
        "phase": "train",
        "step": step,
        "total": 1_000_000,
        "samples": 8 * step,
        "loss": 1 + 1 / (1 + step),
        "samplesPerSecond": 6.4,
        "dataWait": 0.07,
        "memoryBytes": 3 << 30,
        "etaSeconds": 1.25 * (1_000_000 - step),
        "checkpoint": f"s3://none/runs/data/step-{step // 10 * 10}",
        "checkpointStep": step // 10 * 10,
        "seconds": seconds,
    }
    return {
        "namespace": metadata["namespace"],
        "job": labels[JOB_LABEL],
        "uid": labels[UID_LABEL],
        "stage": labels[STAGE_LABEL],
        "attempt": int(labels[ATTEMPT_LABEL]),
        "progress": progress,
    }
