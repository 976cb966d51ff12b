"""Model and optimizer state under canonical names, whole or in shards, and back from a checkpoint.

Three tensors belong to a parameter p that AdamW trains: ``model/p``, ``exp_avg/p`` and
``exp_avg_sq/p``; one to a parameter that is not trained and to a persistent buffer: ``model/p``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment, TensorReader
from florence.distributed.buffers import persistent_buffers
from florence.distributed.restoring import OnProgress, Part, fill, require_shape
from florence.distributed.world import World

MODEL = "model"
MOMENTS = ("exp_avg", "exp_avg_sq")

__all__ = [
    "MODEL",
    "MOMENTS",
    "Shard",
    "cpu_copies",
    "fill_state",
    "fill_whole",
    "require_shape",
    "whole_tensors",
]


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

    def parts(self) -> list[Part]:
        """The same three as what a restore has to fill."""
        return [
            Part(f"{kind}/{self.parameter}", self.shape, self.offset, view.detach())
            for kind, view in self.views.items()
        ]

    @torch.no_grad()
    def fill(self, read: TensorReader) -> None:
        """Overwrite the views with the same run of the checkpoint, whatever that costs to read.

        :func:`fill_state` reads less for many shards.
        """
        for part in self.parts():
            require_shape(read, part.name, part.shape)
            part.values.copy_(read.read(part.name, part.offset, part.values.numel()))


def whole_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Live tensors of a state that this process holds in full, by canonical name.

    They are all parameters, with what the optimizer keeps of their shape, and the persistent
    buffers; parameters that are not trained have nothing in the optimizer.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensors[f"{MODEL}/{name}"] = parameter.detach()
        for kind, value in optimizer.state.get(parameter, {}).items():
            # The steps taken are a counter: they have the shape of a parameter that is a scalar.
            if kind != "step" and isinstance(value, Tensor) and value.shape == parameter.shape:
                tensors[f"{kind}/{name}"] = value.detach()
    buffers = persistent_buffers(model)
    return tensors | {f"{MODEL}/{name}": value for name, value in buffers.items()}


def fill_whole(
    tensors: Mapping[str, Tensor],
    read: TensorReader,
    world: World | None = None,
    *,
    on_progress: OnProgress | None = None,
) -> None:
    """Overwrite live tensors that every rank holds whole; see :func:`fill_state`."""
    fill_state(read, world or World(), whole=tensors, on_progress=on_progress)


def fill_state(
    read: TensorReader,
    world: World,
    *,
    whole: Mapping[str, Tensor] | None = None,
    shards: Iterable[Shard] = (),
    on_progress: OnProgress | None = None,
) -> None:
    """Overwrite live tensors with those of a checkpoint, which the ranks read together.

    Collective. What every rank needs whole is read once: each rank reads its part of the files and
    sends it to the others, file by file, so that a device holds one file's payload more at most.
    What only this rank needs, it takes from the files that it reads anyway, and from others after.

    Args:
        read: the same checkpoint on every rank.
        whole: by canonical name, the same on every rank; any dtype, shape, strides and device.
        shards: this rank's.
        on_progress: told bytes filled so far and in all, on every rank, after every file.

    Raises:
        DataError: a tensor is missing or has another shape, or a file is damaged; on all ranks.
        TransientError: a file could not be read; on all ranks.
        LostPeersError: another rank is gone.
    """
    parts = [part for shard in shards for part in shard.parts()]
    fill(read, world, whole or {}, parts, on_progress)


def cpu_copies(tensors: Iterable[tuple[str, Tensor]], *, keep: bool = True) -> dict[str, Tensor]:
    """Copies on the CPU: fp32 of floating point, others in their dtype.

    Without ``keep`` nothing is copied, but ``tensors`` is gone through, since bringing a tensor
    together may need every rank.
    """
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors:
        if keep:
            dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
            copies[name] = tensor.detach().to("cpu", dtype, copy=True).contiguous()
    return copies
