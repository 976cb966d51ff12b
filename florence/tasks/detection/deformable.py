"""Modulated deformable convolution: a convolution whose taps look where they are told (DCNv2).

Source: Deformable ConvNets v2 (arXiv 1811.11168). Shapes: B images, C channels in, D channels out,
k x k taps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.tasks.detection.compiled_ops import compiled_op


def deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *, stride: int) -> Tensor:
    """A convolution with padding k // 2 of a map that is sampled between its cells.

    By torchvision's compiled operator where that loads; in fp32 whatever the autocast, because
    half precision is exact to a cell only up to 2,048 of them.

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
        compiled = compiled_op("deform_conv2d")
        if compiled is None:
            return plain_deform_conv(x, offset, mask, weight, stride=stride)
        padding = weight.shape[-1] // 2
        result: Tensor = compiled(x, offset, weight, stride=stride, padding=padding, mask=mask)
        return result


def plain_deform_conv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, *, stride: int
) -> Tensor:
    """:func:`deform_conv` in plain torch: each tap is a bilinear sample, then one product."""
    height, width = x.shape[-2:]
    side = weight.shape[-1]
    rows, columns = offset.shape[-2:]
    y = torch.arange(rows, device=x.device, dtype=x.dtype) * stride - side // 2
    along = torch.arange(columns, device=x.device, dtype=x.dtype) * stride - side // 2
    taps = []
    for tap in range(side**2):
        down, right = divmod(tap, side)
        py = y[:, None] + down + offset[:, 2 * tap]
        px = along + right + offset[:, 2 * tap + 1]
        # grid_sample's coordinates run from -1 to 1 between the outer borders of the outer cells.
        grid = torch.stack([(2 * px + 1) / width - 1, (2 * py + 1) / height - 1], dim=-1)
        sampled = F.grid_sample(x, grid, mode="bilinear", align_corners=False)
        taps.append(sampled * mask[:, tap, None])
    return torch.einsum("tbchw,dct->bdhw", torch.stack(taps), weight.flatten(2))
