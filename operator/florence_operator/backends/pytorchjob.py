"""PyTorchJobs of the Training Operator 1.9: worker-only, tried once, a rendezvous of our own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.api.child_kinds import PYTORCH_JOB
from florence_operator.api.times import unix
from florence_operator.backends.protocol import (
    AttemptSpec,
    Child,
    ChildState,
    Document,
    child_fields,
    true_conditions,
    with_variables,
)
from florence_operator.kube.resources import PYTORCH_JOBS

PORT = 23456
_PORT_NAME = "pytorchjob-port"
"""By this name the Training Operator finds the port that it makes Services for."""


class PyTorchJobs:
    """The backend for PyTorchJobs.

    The Training Operator keeps no limits for them: deadlines, retries and clean-up are the
    FlorenceJob's.
    """

    kind = PYTORCH_JOB.name
    resource = PYTORCH_JOBS
    container = PYTORCH_JOB.container

    def build(self, attempt: AttemptSpec) -> list[Document]:
        """The PyTorchJob of an attempt."""
        worker = {
            "replicas": attempt.workers,
            "restartPolicy": "Never",
            "template": self._template(attempt),
        }
        job = {
            "apiVersion": PYTORCH_JOBS.api_version,
            "kind": PYTORCH_JOBS.kind,
            "metadata": dict(attempt.metadata),
            "spec": {
                "nprocPerNode": str(attempt.processes),
                "runPolicy": {"cleanPodPolicy": "Running"},
                "pytorchReplicaSpecs": {"Worker": worker},
            },
        }
        return [job]

    def _template(self, attempt: AttemptSpec) -> Document:
        """The pods' template with a static rendezvous: rank 0 is in worker 0."""
        template, spec = attempt.template, attempt.template["spec"]
        rank = f"metadata.labels['{PYTORCH_JOB.index_label}']"
        rendezvous: list[Document] = [
            {"name": "PET_MASTER_ADDR", "value": f"{attempt.name}-worker-0"},
            {"name": "PET_MASTER_PORT", "value": str(PORT)},
            {"name": "PET_MAX_RESTARTS", "value": "0"},
            # The Training Operator tells workers their number only through this label.
            {"name": "PET_NODE_RANK", "valueFrom": {"fieldRef": {"fieldPath": rank}}},
        ]
        port = {"name": _PORT_NAME, "containerPort": PORT, "protocol": "TCP"}
        containers = [
            {**c, "ports": [port], "env": with_variables(c["env"], rendezvous)}
            if c["name"] == self.container
            else c
            for c in spec["containers"]
        ]
        return {**template, "spec": {**spec, "containers": containers}}

    def child(self, document: Mapping[str, Any]) -> Child | None:
        """What a PyTorchJob says."""
        fields = child_fields(document)
        if fields is None:
            return None
        true = true_conditions(document)
        failed = true.get("Failed", {})
        policy = (document.get("spec") or {}).get("runPolicy") or {}
        state = ChildState.SUSPENDED if policy.get("suspend") else ChildState.ACTIVE
        state = next((s for s in (ChildState.SUCCEEDED, ChildState.FAILED) if s in true), state)
        return Child(
            kind=self.kind,
            state=state,
            since=unix(failed.get("lastTransitionTime")) or 0.0,
            message=failed.get("message", ""),
            **fields,
        )

    def pod_index(self, pod: Mapping[str, Any]) -> int:
        """The number that the Training Operator gave a pod."""
        labels = pod["metadata"].get("labels") or {}
        return int(labels.get(PYTORCH_JOB.index_label, "0"))

    def slim(self, document: Document) -> Document:
        """A PyTorchJob without its templates: only whether it is suspended matters."""
        policy = (document.get("spec") or {}).get("runPolicy") or {}
        return {**document, "spec": {"runPolicy": {"suspend": policy.get("suspend", False)}}}
