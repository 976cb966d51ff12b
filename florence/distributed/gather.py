"""All-gather that autograd can go through."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from florence.distributed.lost_peers import collective_errors


class _GatherRows(torch.autograd.Function):
    """Forward: concatenate every rank's rows. Backward: sum over ranks, keep the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return all_gather_rows(rows, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0].contiguous()
        own = grad.new_empty((grad.shape[0] // dist.get_world_size(ctx.group), *grad.shape[1:]))
        with collective_errors():
            dist.reduce_scatter_tensor(own, grad, op=dist.ReduceOp.SUM, group=ctx.group)
        return own, None


def world_size(group: dist.ProcessGroup | None) -> int:
    """Processes in the group; 1 when torch.distributed is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    return dist.get_world_size(group)


def all_gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Concatenate ``rows`` (b, …) of every rank by rank into (W·b, …); no gradient.

    Every rank must bring the same number of rows.
    """
    size = world_size(group)
    if size == 1:
        return rows
    rows = rows.contiguous()
    gathered = rows.new_empty((size * rows.shape[0], *rows.shape[1:]))
    with collective_errors():
        dist.all_gather_into_tensor(gathered, rows, group=group)
    return gathered


def sum_over_ranks(value: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum over ranks of a tensor of any shape; no gradient."""
    return all_gather_rows(value.detach()[None], group).sum(dim=0)


def gather_rows(rows: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """:func:`all_gather_rows` whose backward **sums** over ranks the gradient of the own rows.

    A plain all-gather would lose the gradient that reaches these rows through other ranks' losses.
    """
    if world_size(group) == 1:
        return rows
    gathered: Tensor = _GatherRows.apply(rows, group)
    return gathered
