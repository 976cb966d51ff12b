"""What PodSecurity restricted asks of the pods that we make."""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

USER = 65532


def pod_security() -> Document:
    """What PodSecurity ``restricted`` asks of a pod."""
    return {
        "runAsNonRoot": True,
        **dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), USER),
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Document:
    """What PodSecurity ``restricted`` asks of a container, and a root that cannot be written."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
