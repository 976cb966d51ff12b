"""Every backend there is, by the kind of its children; in the order in which they are chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import kind_of_container
from florence_operator.backends.protocol import Backend, Child
from florence_operator.backends.pytorchjob import PyTorchJobs
from florence_operator.backends.trainjob import TrainJobs

BACKENDS: Mapping[str, Backend] = {
    backend.kind: backend for backend in (PyTorchJobs(), TrainJobs())
}


def child_from(document: Mapping[str, Any]) -> Child | None:
    """What a child says, of whichever kind it is; None when it is of no attempt of ours."""
    backend = BACKENDS.get(document.get("kind", ""))
    return backend.child(document) if backend is not None else None


def made(child: Child, pod: Pod) -> bool:
    """Whether a pod of the child's attempt is one that the child brought about."""
    backend = BACKENDS.get(child.kind)
    return backend is not None and backend.made(child, pod)


def backend_of(pod: Pod) -> Backend:
    """Of which kind the child is, or was, that a pod was made for."""
    return BACKENDS[kind_of_container(pod.container).name]
