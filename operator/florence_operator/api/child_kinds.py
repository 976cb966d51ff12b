"""What tells the pods of one kind of child from those of another: all that their readers need.

How a child of a kind is made and read is its backend's (:mod:`florence_operator.backends`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Of everything that JobSet makes; a TrainJob's JobSet has the TrainJob's name."""
TRAINER_JOB = "node"
"""The replicated job of a TrainJob's JobSet, and the container, that Trainer tells its ranks to."""


@dataclass(frozen=True, slots=True)
class ChildKind:
    """How the pods of a child look."""

    name: str
    container: str
    """The container that runs the stage."""
    index_label: str
    """The label with a pod's number in its gang, 0 for the first."""
    longest_name: int
    """Of a child: what is appended for its pods has to fit into a label of 63 characters."""
    controller: str
    """Who makes its pods, for people."""
    makers: tuple[tuple[str, str], ...] = ()
    """What is made of it on the way to its pods: kinds, and what follows its name in theirs."""

    def told_of(self, child: str) -> tuple[str, ...]:
        """The objects, as ``Kind/name``, whose events tell why a child has no pods."""
        return (f"{self.name}/{child}", *(f"{kind}/{child}{end}" for kind, end in self.makers))


PYTORCH_JOB = ChildKind(
    name="PyTorchJob",
    container="pytorch",
    index_label="training.kubeflow.org/replica-index",
    longest_name=63 - len("-worker-9999"),
    controller="The Training Operator",
)
TRAIN_JOB = ChildKind(
    name="TrainJob",
    container=TRAINER_JOB,
    index_label="batch.kubernetes.io/job-completion-index",
    longest_name=63 - len(f"-{TRAINER_JOB}-0-9999-abcde"),
    controller="Kubeflow Trainer",
    makers=(("JobSet", ""), ("Job", f"-{TRAINER_JOB}-0")),
)
CHILD_KINDS = {kind.name: kind for kind in (PYTORCH_JOB, TRAIN_JOB)}


def kind_of_pod(labels: Mapping[str, str]) -> ChildKind:
    """Of which kind the child is that made a pod; without a sign of any, a PyTorchJob."""
    return next((kind for kind in CHILD_KINDS.values() if kind.index_label in labels), PYTORCH_JOB)


def kind_of_container(name: str) -> ChildKind:
    """Of which kind the child is whose pods run the stage in a container of that name."""
    return next((kind for kind in CHILD_KINDS.values() if kind.container == name), PYTORCH_JOB)


def train_job_of(labels: Mapping[str, str], controller: Mapping[str, Any]) -> str:
    """The TrainJob whose batch Job controls a pod, by the names on the way; nothing for others.

    Between a TrainJob and its pods are a JobSet and a Job: a pod knows neither's owner.
    """
    name = labels.get(JOBSET_LABEL, "")
    job = f"{name}-{TRAINER_JOB}-0"
    return name if name and (controller.get("kind"), controller.get("name")) == ("Job", job) else ""
