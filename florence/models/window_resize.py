"""Carry relative position biases over to another window size."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from florence.models.attention import WindowAttention

TABLE = "relative_position_bias_table"


def resize_windows(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Resize the bias tables in ``state`` to the windows of ``model``.

    Each head's table of (2M - 1) x (2M - 1) relative positions is a picture, resized bicubically
    as Swin does between resolutions. Tensors that fit already are returned as they are.

    Args:
        state: tensors by parameter name, such as ``model.state_dict()`` of another window.
        model: a module with :class:`WindowAttention` inside, named as in ``state``.

    Returns:
        A new dictionary; only the resized tables are new tensors.
    """
    sides = {
        f"{name}.{TABLE}" if name else TABLE: 2 * module.window - 1
        for name, module in model.named_modules()
        if isinstance(module, WindowAttention)
    }
    return {
        name: resize_table(value, sides[name]) if name in sides else value
        for name, value in state.items()
    }


def resize_table(table: Tensor, side: int) -> Tensor:
    """A table (source side ** 2, heads) of relative positions as one of ``side ** 2`` rows."""
    entries, heads = table.shape
    source = math.isqrt(entries)
    if source == side:
        return table
    picture = table.detach().float().t().reshape(1, heads, source, source)
    resized = F.interpolate(picture, (side, side), mode="bicubic", align_corners=False)
    return resized.reshape(heads, side * side).t().contiguous().to(table.dtype)
