"""Buffers that forward passes change, such as running statistics: a part of the training state."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from florence.distributed.world import World


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The model's persistent buffers, live, by the names that ``state_dict`` gives them."""
    buffers: dict[str, Tensor] = {}
    for prefix, module in model.named_modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                buffers[f"{prefix}.{name}" if prefix else name] = buffer
    return buffers


class BufferGuard:
    """Keeps buffers equal on every rank, and as they were when a step is skipped.

    Ranks see different samples, so their statistics differ; those of rank 0 hold for all, as in
    DistributedDataParallel.
    """

    def __init__(self, model: nn.Module, world: World) -> None:
        self._model = model
        self._world = world
        self._before: dict[str, Tensor] = {}

    @torch.no_grad()
    def begin(self) -> None:
        """Remember the buffers, before the first forward pass of a step."""
        live = persistent_buffers(self._model)
        self._before = {name: buffer.clone() for name, buffer in live.items()}

    @torch.no_grad()
    def end(self, *, skipped: bool) -> None:
        """Take rank 0's buffers, or those from before a step that was skipped; collective."""
        live = persistent_buffers(self._model)
        if skipped:
            for name, buffer in live.items():
                buffer.copy_(self._before[name])
        elif self._world.size > 1:
            _broadcast(live.values())


def _broadcast(tensors: Iterable[Tensor]) -> None:
    """Give every rank the tensors of rank 0, with one collective per dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.broadcast(flat, src=0)
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
