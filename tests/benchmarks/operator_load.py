"""What the operator benchmark puts on an API server: jobs, and pods that only pretend to run."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from florence_operator.api.labels import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, UID_LABEL
from florence_operator.api.times import timestamp
from florence_operator.kube.client import FLORENCE_JOBS, PODS, ApiError, Client, Resource

NAMESPACE = "florence-bench"
NOWHERE = "no-scheduler"
"""A scheduler that does not exist: pods stay where they are made."""
Document = dict[str, Any]


def florence_job(name: str) -> Document:
    """A job of one stage with one worker."""
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "image": "none",
            "artifacts": {"uri": "s3://none/runs"},
            "stages": [
                {
                    "name": "mixed",
                    "pretrain": {"data": "s3://none/data", "batchSize": 8, "steps": 8},
                }
            ],
        },
    }


def _pods_that_wait(container: str, **fields: Any) -> Document:
    """A template of pods that no scheduler looks at."""
    made = {"name": container, "image": "none", "resources": {"requests": {"cpu": "1m"}}}
    return {"spec": {"schedulerName": NOWHERE, "containers": [made], **fields}}


def pytorch_job(name: str) -> Document:
    """A job of one worker for the Training Operator alone."""
    worker = {"replicas": 1, "restartPolicy": "Never", "template": _pods_that_wait("pytorch")}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "runPolicy": {"cleanPodPolicy": "All"},
            "pytorchReplicaSpecs": {"Worker": worker},
        },
    }


def training_runtime() -> Document:
    """What :func:`train_job` refers to."""
    labels = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    job = {"backoffLimit": 0, "template": _pods_that_wait("node", restartPolicy="Never")}
    replicated = {"name": "node", "template": {"metadata": {"labels": labels}, "spec": job}}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainingRuntime",
        "metadata": {"name": "plain", "namespace": NAMESPACE},
        "spec": {
            "mlPolicy": {"numNodes": 1, "torch": {}},
            "template": {"spec": {"replicatedJobs": [replicated]}},
        },
    }


def train_job(name: str) -> Document:
    """A job of one worker for Kubeflow Trainer alone."""
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "TrainingRuntime",
                "name": "plain",
            },
            "trainer": {"numNodes": 1, "numProcPerNode": 1},
        },
    }


async def all_of(calls: Iterable[Awaitable[Any]], at_once: int = 32) -> None:
    """Await all, some at a time."""
    slots = asyncio.Semaphore(at_once)

    async def one(call: Awaitable[Any]) -> None:
        async with slots:
            await call

    async with asyncio.TaskGroup() as group:
        for call in calls:
            group.create_task(one(call))


class Arrivals:
    """When each object of a kind was first seen in a state, by its job's name; kept by a watch.

    Args:
        key: the job's name, of an object.
        when: whether an object is in the state; left out, any is.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        key: Callable[[Document], str],
        when: Callable[[Document], bool] = lambda document: True,
    ) -> None:
        self._client = client
        self._resource = resource
        self._key = key
        self._when = when
        self.seen: dict[str, float] = {}
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        _, version = await self._client.list(self._resource, NAMESPACE)
        while True:
            try:
                async for kind, document in self._client.watch(
                    self._resource, NAMESPACE, resource_version=version
                ):
                    version = document["metadata"]["resourceVersion"]
                    if kind in ("ADDED", "MODIFIED") and self._when(document):
                        self.seen.setdefault(self._key(document), time.monotonic())
                        self._more.set()
            except ApiError as error:
                if error.gone:
                    _, version = await self._client.list(self._resource, NAMESPACE)

    async def reach(self, count: int, seconds: float) -> None:
        """Return once so many were seen, or the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(self.seen) < count:
                    self._more.clear()
                    await self._more.wait()


async def pretend(client: Client, child: Document) -> None:
    """Be the pod of a child: run at once, and then succeed."""
    metadata = child["metadata"]
    name = f"{metadata['name']}-worker-0"
    told = (JOB_LABEL, UID_LABEL, STAGE_LABEL, ATTEMPT_LABEL)
    labels = {label: metadata["labels"][label] for label in told}
    owner = {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {**labels, "training.kubeflow.org/replica-index": "0"},
            "ownerReferences": [owner],
        },
        "spec": {
            "schedulerName": NOWHERE,
            "containers": [{"name": "pytorch", "image": "none"}],
            "terminationGracePeriodSeconds": 0,
        },
    }
    await client.create(pod)
    now = timestamp(time.time())
    for phase, state in (
        ("Running", {"running": {"startedAt": now}}),
        ("Succeeded", {"terminated": {"exitCode": 0, "finishedAt": now, "startedAt": now}}),
    ):
        container = {"name": "pytorch", "image": "none", "imageID": "", "ready": True}
        container |= {"restartCount": 0, "state": state}
        status = {"phase": phase, "containerStatuses": [container]}
        await client.patch(PODS, name, NAMESPACE, {"status": status}, subresource="status")
        await asyncio.sleep(2)


def finished_status() -> Document:
    """The status of a job that has ended."""
    now = timestamp(time.time())
    attempt = {
        "number": 1,
        "jobRef": {"kind": "PyTorchJob", "name": "done-mixed-a1"},
        "startTime": now,
        "admissionTime": now,
        "podsReadyTime": now,
        "completionTime": now,
        "exitCode": 0,
    }
    return {
        "phase": "Succeeded",
        "observedGeneration": 1,
        "startTime": now,
        "completionTime": now,
        "stages": [{"name": "mixed", "state": "Succeeded", "attempts": [attempt]}],
        "conditions": [
            {
                "type": "Succeeded",
                "status": "True",
                "reason": "AllStagesSucceeded",
                "message": "all stages succeeded",
                "lastTransitionTime": now,
                "observedGeneration": 1,
            }
        ],
    }


async def finished_jobs(client: Client, count: int) -> None:
    """Make jobs that have ended long ago."""
    status = finished_status()

    async def one(name: str) -> None:
        made = await client.create(florence_job(name))
        await client.replace_status(FLORENCE_JOBS, {**made, "status": status})

    await all_of(one(f"done-{number}") for number in range(count))
