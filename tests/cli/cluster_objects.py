"""FlorenceJobs, pods and nodes as an API server holds them, for tests of the command line."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
CREATED = "2027-01-15T07:00:00Z"
FIVE_MINUTES_AGO = "2027-01-15T07:55:00Z"


def stage(name: str, state: str = "Pending", **fields: Any) -> Document:
    return {"name": name, "state": state, **fields}


def attempt(number: int = 1, **fields: Any) -> Document:
    name = f"big-mixed-a{number}"
    child = {"kind": "PyTorchJob", "name": name}
    return {"number": number, "jobRef": child, "startTime": FIVE_MINUTES_AGO, **fields}


def job(phase: str | None = None, *stages: Document, **spec: Any) -> Document:
    """A job with the stages mixed (2 pods of 8 GPUs) and check; no status without a phase."""
    document: Document = {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {
            "name": "big",
            "namespace": "team",
            "uid": "12345678-aaaa-bbbb-cccc-1234567890ab",
            "creationTimestamp": CREATED,
            "generation": 1,
            "labels": {"team": "vision"},
        },
        "spec": {
            "image": "florence-jobs:0",
            "artifacts": {"uri": "s3://florence/runs"},
            "stages": [
                {
                    "name": "mixed",
                    "resources": {"workers": 2, "gpusPerWorker": 8},
                    "pretrain": {"data": "d", "batchSize": 4, "steps": 100},
                },
                {
                    "name": "check",
                    "dependsOn": ["mixed"],
                    "evaluate": {"zeroShot": [{"name": "z", "data": "d", "prompts": "digits"}]},
                },
            ],
            **spec,
        },
    }
    if phase:
        document["status"] = {
            "observedGeneration": 1,
            "phase": phase,
            "stages": list(stages),
            "startTime": CREATED,
        }
    return document


def pod(index: int = 0, number: int = 1, phase: str = "Running", **status: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"big-mixed-a{number}-worker-{index}",
            "namespace": "team",
            "labels": {
                "florence.dev/job": "big",
                "florence.dev/stage": "mixed",
                "florence.dev/attempt": str(number),
                "training.kubeflow.org/replica-index": str(index),
            },
        },
        "spec": {
            "containers": [{"name": "pytorch", "resources": {"limits": {"nvidia.com/gpu": "8"}}}],
            **({"nodeName": f"node{index}"} if phase == "Running" else {}),
        },
        "status": {"phase": phase, **status},
    }


def waiting(reason: str, message: str = "") -> list[Document]:
    state = {"waiting": {"reason": reason, "message": message}}
    return [{"name": "pytorch", "state": state}]


def node(name: str, gpus: int = 8, **fields: Any) -> Document:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": fields.pop("labels", {})},
        "spec": fields,
        "status": {
            "allocatable": {"nvidia.com/gpu": str(gpus)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }
