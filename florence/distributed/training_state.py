"""Model and AdamW moments under canonical names, whole or in shards, and back from a checkpoint.

Three tensors belong to a trained parameter p: ``model/p``, ``exp_avg/p`` and ``exp_avg_sq/p``; to a
frozen parameter and to a persistent buffer belongs the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment, TensorReader, read_whole
from florence.distributed.buffers import persistent_buffers
from florence.errors import DataError

MODEL = "model"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """A run of one parameter's elements: live 1-D views of its weights and of its moments."""

    parameter: str
    shape: tuple[int, ...]
    offset: int
    views: dict[str, Tensor]
    """By kind: ``model``, ``exp_avg``, ``exp_avg_sq``; all of the same length."""

    def fragments(self) -> list[Fragment]:
        """The run's three fragments, views of live memory."""
        return [
            Fragment(f"{kind}/{self.parameter}", self.shape, self.offset, view.detach())
            for kind, view in self.views.items()
        ]

    @torch.no_grad()
    def fill(self, read: TensorReader) -> None:
        """Overwrite the views with the same run of the checkpoint."""
        for kind, view in self.views.items():
            name = f"{kind}/{self.parameter}"
            require_shape(read, name, self.shape)
            view.copy_(read.read(name, self.offset, view.numel()))


def whole_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Live tensors of a state that this process holds in full, by canonical name."""
    buffers = persistent_buffers(model)
    tensors = {f"{MODEL}/{name}": buffer for name, buffer in buffers.items()}
    for name, parameter in model.named_parameters():
        tensors[f"{MODEL}/{name}"] = parameter.detach()
        for moment in MOMENTS:
            if parameter in optimizer.state:
                tensors[f"{moment}/{name}"] = optimizer.state[parameter][moment]
    return tensors


@torch.no_grad()
def fill_whole(tensors: dict[str, Tensor], read: TensorReader) -> None:
    """Overwrite live tensors with those of the checkpoint."""
    for name, tensor in tensors.items():
        require_shape(read, name, tuple(tensor.shape))
        tensor.copy_(read_whole(read, name))


def require_shape(read: TensorReader, name: str, shape: tuple[int, ...]) -> None:
    """Raise DataError unless the checkpoint holds ``name`` in ``shape``."""
    found = tuple(read.shape(name))
    if found != shape:
        raise DataError(
            f"checkpoint tensor {name} has shape {found}, the model needs {shape}: "
            "restore into the architecture and window that wrote it"
        )


def cpu_copies(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Copies on the CPU: fp32 of floating-point tensors, others in their own dtype."""
    return {
        name: tensor.detach()
        .to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        .contiguous()
        for name, tensor in tensors
    }
