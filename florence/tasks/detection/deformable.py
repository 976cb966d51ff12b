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
    """:func:`deform_conv` in plain torch: all taps are bilinear samples, then one product.

    A sample is a weighted sum of four cells whose channels lie side by side in memory, which is
    what ``embedding_bag`` sums. ``grid_sample`` gathers every channel by itself and takes up to
    three times as long.
    """
    batch, channels, height, width = x.shape
    side, (rows, columns) = weight.shape[-1], offset.shape[-2:]
    tap = torch.arange(side, device=x.device, dtype=x.dtype) - side // 2
    down = torch.arange(rows, device=x.device, dtype=x.dtype)[:, None, None] * stride
    along = torch.arange(columns, device=x.device, dtype=x.dtype)[:, None] * stride
    moved = offset.reshape(batch, side**2, 2, rows, columns).permute(2, 0, 3, 4, 1)
    cell_y, share_y = _neighbours(moved[0] + down + tap.repeat_interleave(side), height)
    cell_x, share_x = _neighbours(moved[1] + along + tap.repeat(side), width)
    image = torch.arange(batch, device=x.device).view(-1, 1, 1, 1, 1, 1) * (height * width)
    cells = cell_y[..., :, None] * width + cell_x[..., None, :] + image
    shares = share_y[..., :, None] * share_x[..., None, :]
    shares = shares * mask.permute(0, 2, 3, 1)[..., None, None]
    sampled = F.embedding_bag(
        cells.reshape(-1, 4),
        x.permute(0, 2, 3, 1).reshape(-1, channels),
        per_sample_weights=shares.reshape(-1, 4),
        mode="sum",
    )
    product = sampled.view(-1, side**2 * channels) @ weight.permute(2, 3, 1, 0).flatten(0, 2)
    return product.view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def _neighbours(position: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The two cells around positions of one axis: int64 (…, 2), and their shares, 0 outside.

    Positions that are not finite make shares that are not, and cells that exist.
    """
    low = position.detach().floor()
    part = position - low
    cells = torch.stack([low, low + 1], dim=-1)
    is_inside = (cells >= 0) & (cells < length)
    shares = torch.stack([1 - part, part], dim=-1) * is_inside
    return cells.long().clamp(0, length - 1), shares
