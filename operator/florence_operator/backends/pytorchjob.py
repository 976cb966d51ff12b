"""PyTorchJobs of the Training Operator 1.9: worker-only, tried once, a rendezvous of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import PYTORCH_JOB
from florence_operator.api.labels import QUEUE_LABEL
from florence_operator.api.times import unix
from florence_operator.backends.gangs import placed
from florence_operator.backends.protocol import (
    AttemptSpec,
    Child,
    ChildState,
    Document,
    Remnant,
    child_fields,
    true_conditions,
    with_variables,
)
from florence_operator.kube.resources import PYTORCH_JOBS, SERVICES, Resource

PORT = 23456
_PORT_NAME = "pytorchjob-port"
"""By this name the Training Operator finds the port that it makes Services for."""


class PyTorchJobs:
    """The backend for PyTorchJobs.

    The Training Operator keeps no limits for them: deadlines, retries and clean-up are the
    FlorenceJob's.
    """

    kind = PYTORCH_JOB.name
    pods = PYTORCH_JOB
    resource = PYTORCH_JOBS
    needed: Sequence[Resource] = (PYTORCH_JOBS,)
    resources: Mapping[str, Resource] = {PYTORCH_JOB.name: PYTORCH_JOBS, "Service": SERVICES}

    def build(self, attempt: AttemptSpec) -> list[Document]:
        """The PyTorchJob of an attempt."""
        worker = {
            "replicas": attempt.workers,
            "restartPolicy": "Never",
            "template": self._template(attempt),
        }
        policy: Document = {"cleanPodPolicy": "Running"}
        if attempt.gang.has_pod_groups:
            # The PodGroup is the Training Operator's, where its flags name the same scheduler.
            policy["schedulingPolicy"] = {"minAvailable": attempt.workers}
        job = {
            "apiVersion": PYTORCH_JOBS.api_version,
            "kind": PYTORCH_JOBS.kind,
            "metadata": dict(attempt.metadata),
            "spec": {
                "nprocPerNode": str(attempt.processes),
                "runPolicy": policy,
                "pytorchReplicaSpecs": {"Worker": worker},
            },
        }
        return [job]

    def _template(self, attempt: AttemptSpec) -> Document:
        """The pods' template with a static rendezvous: rank 0 is in worker 0."""
        template = placed(attempt.template, attempt.gang, attempt.topology)
        spec = template["spec"]
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
            if c["name"] == self.pods.container
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
        state = ChildState.SUSPENDED if held_back(document) else ChildState.ACTIVE
        state = next((s for s in (ChildState.SUCCEEDED, ChildState.FAILED) if s in true), state)
        return Child(
            kind=self.kind,
            state=state,
            since=unix(failed.get("lastTransitionTime")) or 0.0,
            message=failed.get("message", ""),
            **fields,
        )

    def made(self, child: Child, pod: Pod) -> bool:
        """Whether the PyTorchJob itself controls the pod."""
        return pod.owner == child.uid

    def companions(self, child: str) -> Sequence[Remnant]:
        """Nothing: all that a PyTorchJob needs is in it."""
        return ()

    def remnants(self, pod: Pod) -> Sequence[Remnant]:
        """The Service of an orphan's name, which only the pod leads to."""
        if pod.owner:
            return ()
        return (Remnant(kind="Service", name=pod.name, child=pod.name.rpartition("-worker-")[0]),)

    def slim(self, document: Document) -> Document:
        """A PyTorchJob without its templates: only whether it is suspended matters."""
        return {**document, "spec": {"runPolicy": {"suspend": held_back(document)}}}


def probe(namespace: str) -> Document:
    """A PyTorchJob that is only tried: where Kueue takes such, it comes back suspended."""
    pod = {"containers": [{"name": PYTORCH_JOB.container, "image": "none"}]}
    worker = {"replicas": 1, "restartPolicy": "Never", "template": {"spec": pod}}
    name = "florence-queue-probe"
    return {
        "apiVersion": PYTORCH_JOBS.api_version,
        "kind": PYTORCH_JOBS.kind,
        "metadata": {"name": name, "namespace": namespace, "labels": {QUEUE_LABEL: name}},
        "spec": {"pytorchReplicaSpecs": {"Worker": worker}},
    }


def held_back(document: Mapping[str, Any]) -> bool:
    """Whether a PyTorchJob is suspended."""
    return bool(((document.get("spec") or {}).get("runPolicy") or {}).get("suspend"))
