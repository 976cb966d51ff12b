"""Whose a job is: another controller's jobs are left alone, whatever happens to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.api.v1alpha1 import CONTROLLER


def ours(document: Mapping[str, Any]) -> bool:
    """Whether this operator runs a stored job: ``spec.managedBy`` names it, or nobody.

    MultiKueue's jobs name ``kueue.x-k8s.io/multikueue``: their copies on worker clusters name
    nobody, and their statuses are written here by Kueue.
    """
    spec = document.get("spec")
    manager = spec.get("managedBy") if isinstance(spec, Mapping) else None
    # One that is no name at all is nobody's: it has to be told what is wrong with it.
    return not isinstance(manager, str) or manager in ("", CONTROLLER)
