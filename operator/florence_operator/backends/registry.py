"""Every backend there is, by the kind of its children."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.backends.protocol import Backend, Child
from florence_operator.backends.pytorchjob import PyTorchJobs

BACKENDS: Mapping[str, Backend] = {backend.kind: backend for backend in (PyTorchJobs(),)}


def child_from(document: Mapping[str, Any]) -> Child | None:
    """What a child says, of whichever kind it is; None when it is of no attempt of ours."""
    backend = BACKENDS.get(document.get("kind", ""))
    return backend.child(document) if backend is not None else None
