"""What tells the pods of one kind of child from those of another: all that their readers need.

How a child of a kind is made and read is its backend's (:mod:`florence_operator.backends`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChildKind:
    """How the pods of a child look."""

    name: str
    container: str
    """The container that runs the stage."""
    index_label: str
    """The label with a pod's number in its gang, 0 for the first."""


PYTORCH_JOB = ChildKind("PyTorchJob", "pytorch", "training.kubeflow.org/replica-index")
TRAIN_JOB = ChildKind("TrainJob", "node", "batch.kubernetes.io/job-completion-index")
CHILD_KINDS = {kind.name: kind for kind in (PYTORCH_JOB, TRAIN_JOB)}


def kind_of_pod(labels: Mapping[str, str]) -> ChildKind:
    """Of which kind the child is that made a pod; without a sign of any, a PyTorchJob."""
    return next((kind for kind in CHILD_KINDS.values() if kind.index_label in labels), PYTORCH_JOB)
