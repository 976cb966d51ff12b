"""The compiled operators of torchvision, where it is installed for this torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled_op(name: str) -> Callable[..., Any] | None:
    """``torchvision.ops.<name>``, or ``None`` where it cannot be loaded.

    A torchvision that was built for another torch imports with an error of its own kind, or without
    its operators: neither is a reason to stop, since all of them have an equal in plain torch.
    """
    try:
        from torchvision import extension, ops

        extension._assert_has_ops()
    except (ImportError, RuntimeError, AttributeError):
        return None
    found: Callable[..., Any] = getattr(ops, name)
    return found
