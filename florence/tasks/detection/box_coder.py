"""Boxes as differences from anchors, scaled so that they vary by about one (Faster R-CNN)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CENTRE_WEIGHT = 10.0
SIZE_WEIGHT = 5.0
LARGEST_LOG = math.log(1000 / 16)
"""Where the logarithm of a side over its anchor's is cut off, so that its exponential is finite."""


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Differences dx dy dw dh of boxes with positive sides from anchors; shapes broadcast.

    Args:
        boxes: ``(…, 4)``.
        anchors: ``(…, 4)``.
    """
    sides = anchors[..., 2:] - anchors[..., :2]
    middle = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    ratio = (boxes[..., 2:] - boxes[..., :2]) / sides
    return torch.cat([middle / sides * CENTRE_WEIGHT, ratio.log() * SIZE_WEIGHT], dim=-1)


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that :func:`encode` gave the differences of, in fp32."""
    deltas = deltas.float()
    sides = anchors[..., 2:] - anchors[..., :2]
    middle = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] / CENTRE_WEIGHT * sides
    half = (deltas[..., 2:] / SIZE_WEIGHT).clamp(max=LARGEST_LOG).exp() * sides / 2
    return torch.cat([middle - half, middle + half], dim=-1)
