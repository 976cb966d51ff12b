"""Modulated deformable convolution: a convolution whose taps look where they are told (DCNv2).

Source: Deformable ConvNets v2 (arXiv 1811.11168). Shapes: B images, C channels in, D channels out,
k x k taps.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.tasks.detection.compiled_ops import compiled_op


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """A convolution with padding k // 2 of a map that is sampled between its cells.

    On a GPU by torchvision's compiled operator where that loads. On the CPU in plain torch: the
    operator's backward pass there runs on one core, several times as long (docs/benchmarks.md). In
    fp32 whatever the autocast, because half precision is exact to a cell only up to 2,048 of them.

    Args:
        x: ``(B, C, H, W)``.
        offset: ``(B, 2 k², H', W')``: for each tap how much further down and right it looks.
        mask: ``(B, k², H', W')``: what each tap is multiplied by.
        weight: ``(D, C, k, k)``, k odd.
        stride: cells of the input for each cell of the output.

    Returns:
        ``(B, D, H', W')``, fp32, with H' = ceil(H / stride).
    """
    with torch.autocast(x.device.type, enabled=False):
        x, offset, mask, weight = (
            t if t.dtype == torch.float64 else t.float() for t in (x, offset, mask, weight)
        )
        compiled = operator_on(x.device)
        if compiled is None:
            return plain_deform_conv(x, offset, mask, weight, stride=stride)
        padding = weight.shape[-1] // 2
        result: Tensor = compiled(x, offset, weight, stride=stride, padding=padding, mask=mask)
        return result


def operator_on(device: torch.device) -> Callable[..., Tensor] | None:
    """The compiled operator, where it loads and is quicker than plain torch.

    It keeps its inputs for the backward pass; plain torch keeps all taps, k² times as much.
    """
    return None if device.type == "cpu" else compiled_op("deform_conv2d")


def plain_deform_conv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *, stride: int
) -> Tensor:
    """:func:`deform_conv` in plain torch: all taps are bilinear samples, then one product."""
    height, width = x.shape[-2:]
    side = weight.shape[-1]
    rows, columns = offset.shape[-2:]
    tap = torch.arange(side, device=x.device, dtype=x.dtype) - side // 2
    y = torch.arange(rows, device=x.device, dtype=x.dtype) * stride
    along = torch.arange(columns, device=x.device, dtype=x.dtype) * stride
    moved = offset.reshape(len(x), side, side, 2, rows, columns)
    py = moved[:, :, :, 0] + (tap[:, None] + y)[:, None, :, None]
    px = moved[:, :, :, 1] + (tap[:, None] + along)[:, None, :]
    # grid_sample's coordinates run from -1 to 1 between the outer borders of the outer cells. Taps
    # lie one below the other, as one tall map.
    grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], dim=-1)
    sampled = F.grid_sample(x, grid.flatten(1, 3), mode="bilinear", align_corners=False)
    sampled = sampled.reshape(len(x), -1, side**2, rows, columns) * mask[:, None]
    product = weight.flatten(1) @ sampled.flatten(3).flatten(1, 2)
    return product.reshape(len(x), -1, rows, columns)
