"""The last layers: for every anchor its classes, its box and how central it is.

Shapes: B images, C channels, A anchors, K classes, R regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

PRIOR = 0.01
"""Probability of every class at every anchor before training."""
STD = 0.01
GRID = 4
"""Samples along each side of a region whose mean stands for it."""


class Predictions(NamedTuple):
    """What is said about the anchors of images of one size."""

    logits: Tensor
    """``(B, A, K)``."""
    deltas: Tensor
    """``(B, A, 4)``, as :mod:`florence.tasks.detection.box_coder` has them."""
    centerness: Tensor
    """``(B, A)`` logits."""


class AnchorPredictor(nn.Module):
    """Three 1 x 1 convolutions that all levels share, and a scale of each level's boxes."""

    def __init__(self, channels: int, classes: int, levels: int) -> None:
        super().__init__()
        self.logits = nn.Conv2d(channels, classes, 1)
        self.deltas = nn.Conv2d(channels, 4, 1)
        self.centerness = nn.Conv2d(channels, 1, 1)
        self.scales = nn.Parameter(torch.empty(levels))

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Normal of 0.01, scales of 1, and classes of probability 0.01."""
        for conv in (self.logits, self.deltas, self.centerness):
            nn.init.normal_(conv.weight, std=STD, generator=generator)
            nn.init.zeros_(cast(Tensor, conv.bias))
        nn.init.constant_(cast(Tensor, self.logits.bias), -math.log((1 - PRIOR) / PRIOR))
        nn.init.ones_(self.scales)

    def forward(self, levels: Sequence[Tensor]) -> Predictions:
        """Maps (B, C, H_i, W_i), finest first; anchors stand in their order."""
        logits, deltas, centerness = [], [], []
        for scale, x in zip(self.scales, levels, strict=True):
            logits.append(_rows(self.logits(x)))
            deltas.append(_rows(self.deltas(x)) * scale)
            centerness.append(_rows(self.centerness(x)).squeeze(-1))
        return Predictions(torch.cat(logits, 1), torch.cat(deltas, 1), torch.cat(centerness, 1))


class AttributePredictor(nn.Module):
    """Attributes of regions, from the mean of the tower's last map within each (one RoI cell)."""

    def __init__(self, width: int, attributes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, attributes)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Normal of 0.01, and attributes of probability 0.01."""
        self.norm.reset_parameters()
        nn.init.normal_(self.fc.weight, std=STD, generator=generator)
        nn.init.constant_(self.fc.bias, -math.log((1 - PRIOR) / PRIOR))

    def forward(self, x: Tensor, regions: Sequence[Tensor]) -> Tensor:
        """Logits of every region of every image, one image after the other: ``(R, A)``.

        Args:
            x: (B, C, H, W), of stride 32.
            regions: for each image ``(R_i, 4)`` boxes in pixels.
        """
        pooled = torch.cat([_pooled(image, own) for image, own in zip(x, regions, strict=True)])
        return cast(Tensor, self.fc(self.norm(pooled)))


def _pooled(x: Tensor, regions: Tensor) -> Tensor:
    """The mean of bilinear samples on a grid within each region: (C, H, W) to (R, C)."""
    height, width = 32 * x.shape[-2], 32 * x.shape[-1]
    steps = (torch.arange(GRID, device=x.device) + 0.5) / GRID
    low, high = regions[:, None, :2], regions[:, None, 2:]
    points = low + (high - low) * steps[:, None]
    along = points[..., 0] * 2 / width - 1
    down = points[..., 1] * 2 / height - 1
    grid = torch.stack(
        [
            along[:, None, :].expand(-1, GRID, -1),
            down[:, :, None].expand(-1, -1, GRID),
        ],
        dim=-1,
    )
    # Regions one below the other, as one tall grid: a sample for each region would copy the map.
    flat = grid.reshape(1, -1, GRID, 2).to(x.dtype)
    sampled = F.grid_sample(x[None], flat, padding_mode="border", align_corners=False)
    return sampled[0].reshape(len(x), -1, GRID * GRID).mean(dim=-1).T


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).flatten(1, 2)
