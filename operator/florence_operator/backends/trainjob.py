"""TrainJobs of Kubeflow Trainer 2.3 and 2.4: each with a TrainingRuntime, none tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import TRAIN_JOB, TRAINER_JOB
from florence_operator.api.run_policy import Gang
from florence_operator.api.times import unix
from florence_operator.backends.gangs import network_topology, placed
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
from florence_operator.kube.resources import JOB_SETS, TRAIN_JOBS, TRAINING_RUNTIMES, Resource

_STEP_LABEL = "trainer.kubeflow.org/trainjob-ancestor-step"
"""By it Trainer finds the replicated job that it tells ranks and the rendezvous to."""
_SCHEDULE_SECONDS = 3600
"""For how long coscheduling keeps places for the rest of a gang."""


class TrainJobs:
    """The backend for TrainJobs.

    All of a pod's template is in a TrainingRuntime of the TrainJob's name: patches of a TrainJob
    cannot say all of it, and Kueue drops some of them. Trainer makes a JobSet of it, JobSet a batch
    Job, and that the pods. None of them tries anything again: the first pod that fails ends the
    Job, the Job the JobSet, and that the TrainJob.
    """

    kind = TRAIN_JOB.name
    pods = TRAIN_JOB
    resource = TRAIN_JOBS
    needed: Sequence[Resource] = (TRAIN_JOBS, TRAINING_RUNTIMES)
    resources: Mapping[str, Resource] = {
        each.kind: each for each in (TRAIN_JOBS, TRAINING_RUNTIMES, JOB_SETS)
    }

    def build(self, attempt: AttemptSpec) -> list[Document]:
        """The TrainingRuntime of an attempt, and the TrainJob that refers to it."""
        runtime = {
            "apiVersion": TRAINING_RUNTIMES.api_version,
            "kind": TRAINING_RUNTIMES.kind,
            "metadata": _without_queue(attempt.metadata),
            "spec": self._runtime(attempt),
        }
        job = {
            "apiVersion": TRAIN_JOBS.api_version,
            "kind": TRAIN_JOBS.kind,
            "metadata": dict(attempt.metadata),
            "spec": {
                "runtimeRef": {
                    "apiGroup": TRAINING_RUNTIMES.group,
                    "kind": TRAINING_RUNTIMES.kind,
                    "name": attempt.name,
                },
                # Without it Trainer tells the pods no ranks, and without a number of processes as
                # many as they have CPUs.
                "trainer": {"numNodes": attempt.workers, "numProcPerNode": attempt.processes},
            },
        }
        return [runtime, job]

    def _runtime(self, attempt: AttemptSpec) -> Document:
        spec: Document = {
            "mlPolicy": {"numNodes": attempt.workers, "torch": {}},
            "template": {
                # What Trainer, JobSet and the Job make has these labels only from here.
                "metadata": {"labels": _without_queue(attempt.metadata)["labels"]},
                "spec": {
                    "failurePolicy": {"maxRestarts": 0},
                    "replicatedJobs": [
                        {
                            "name": TRAINER_JOB,
                            "replicas": 1,
                            "template": {
                                "metadata": {"labels": {_STEP_LABEL: "trainer"}},
                                "spec": {"backoffLimit": 0, "template": self._template(attempt)},
                            },
                        }
                    ],
                },
            },
        }
        if attempt.gang is Gang.VOLCANO:
            topology = network_topology(attempt.topology)
            volcano = {"networkTopology": topology} if topology else {}
            spec["podGroupPolicy"] = {"volcano": volcano}
        elif attempt.gang.has_pod_groups:
            coscheduling = {"scheduleTimeoutSeconds": _SCHEDULE_SECONDS}
            spec["podGroupPolicy"] = {"coscheduling": coscheduling}
        return spec

    def _template(self, attempt: AttemptSpec) -> Document:
        """The pods' template. Trainer adds the rendezvous: PET_NNODES, PET_NPROC_PER_NODE,
        PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT."""
        template = placed(attempt.template, attempt.gang, attempt.topology)
        once: list[Document] = [{"name": "PET_MAX_RESTARTS", "value": "0"}]
        containers = [
            {**c, "env": with_variables(c["env"], once)} if c["name"] == self.pods.container else c
            for c in template["spec"]["containers"]
        ]
        spec = {**template["spec"], "restartPolicy": "Never", "containers": containers}
        return {**template, "spec": spec}

    def child(self, document: Mapping[str, Any]) -> Child | None:
        """What a TrainJob says. It has no word for running: that is the pods' to tell."""
        fields = child_fields(document)
        if fields is None:
            return None
        true = true_conditions(document)
        failed = true.get("Failed", {})
        suspended = (document.get("spec") or {}).get("suspend")
        state = ChildState.SUSPENDED if suspended else ChildState.ACTIVE
        if "Failed" in true:
            state = ChildState.FAILED
        elif "Complete" in true:
            state = ChildState.SUCCEEDED
        return Child(
            kind=self.kind,
            state=state,
            since=unix(failed.get("lastTransitionTime")) or 0.0,
            message=failed.get("message", ""),
            **fields,
        )

    def made(self, child: Child, pod: Pod) -> bool:
        """Whether the pod's controller is the batch Job that JobSet makes of the TrainJob.

        The pod does not know the TrainJob's uid, so it is told by names, and by its age from what
        is left of an earlier TrainJob of the name.
        """
        return bool(pod.owner) and pod.train_job == child.name and pod.created >= child.created

    def companions(self, child: str) -> Sequence[Remnant]:
        """The TrainingRuntime. Kueue reads it as long as the TrainJob is there."""
        return (Remnant(kind=TRAINING_RUNTIMES.kind, name=child, child=child),)

    def remnants(self, pod: Pod) -> Sequence[Remnant]:
        """The JobSet that an orphan's TrainJob left, which would be there for ever."""
        if not pod.train_job:
            return ()
        return (Remnant(kind=JOB_SETS.kind, name=pod.train_job, child=pod.train_job),)

    def slim(self, document: Document) -> Document:
        """A TrainJob of whose spec only remains whether it is suspended."""
        suspended = bool((document.get("spec") or {}).get("suspend"))
        return {**document, "spec": {"suspend": suspended}}


def _without_queue(metadata: Mapping[str, Any]) -> Document:
    """Metadata without Kueue's labels: it is to admit the TrainJob, and nothing below it."""
    labels = {k: v for k, v in metadata["labels"].items() if not k.startswith("kueue.x-k8s.io/")}
    return {**metadata, "labels": labels}
