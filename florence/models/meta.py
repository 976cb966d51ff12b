"""Modules without values: built on the meta device, for a state that is loaded into them.

torch has no kernels of its own for random numbers on that device: it takes them from its compiler,
whose import takes longer than everything else about a prediction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_RANDOM = (Tensor.uniform_, Tensor.normal_)


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Modules that are built within have parameters of shape and dtype only; nothing is drawn."""
    with torch.device("meta"), _NoInitialisation():
        yield


class _NoInitialisation(TorchFunctionMode):
    """Leaves the tensors alone that ``torch.nn.init`` and random in-place methods would fill."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RANDOM or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
