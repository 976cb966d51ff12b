"""Geometry of boxes: rectangles with sides along the axes, in continuous pixels.

A box is x1 y1 x2 y2 with x1 <= x2 and y1 <= y2; its width is x2 - x1, without the 1 that counts of
pixels would add. All functions take and give tensors whose last dimension is 4.
"""

from __future__ import annotations

import torch
from torch import Tensor


def area(boxes: Tensor) -> Tensor:
    """``(…, 4)`` to ``(…)``, square pixels."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def centres(boxes: Tensor) -> Tensor:
    """``(…, 4)`` to x and y of the middle, ``(…, 2)``."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def from_xywh(boxes: Tensor) -> Tensor:
    """From left, top, width and height, COCO's form."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def to_xywh(boxes: Tensor) -> Tensor:
    """To left, top, width and height."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


def from_cxcywh(boxes: Tensor) -> Tensor:
    """From the middle's x and y, width and height, YOLO's form."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


def to_cxcywh(boxes: Tensor) -> Tensor:
    """To the middle's x and y, width and height."""
    return torch.cat([centres(boxes), boxes[..., 2:] - boxes[..., :2]], dim=-1)


def clip(boxes: Tensor, height: int, width: int) -> Tensor:
    """The part of each box that lies in an image of this size."""
    limits = boxes.new_tensor([width, height, width, height])
    return boxes.clamp(min=0).minimum(limits)


def mirror(boxes: Tensor, width: int) -> Tensor:
    """Where the boxes are after the image of this width is mirrored left to right."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes that stand opposite each other, broadcast: ``(…)``.

    0 where both have no area.
    """
    shared, union = _shared_and_union(first, second)
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """``(N, 4)`` with ``(M, 4)`` to ``(N, M)``; leading dimensions are those of a batch."""
    return iou(first.unsqueeze(-2), second.unsqueeze(-3))


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU minus the part of the hull that neither covers, in (-1, 1] (arXiv 1902.09630)."""
    eps = torch.finfo(first.dtype).eps
    shared, union = _shared_and_union(first, second)
    hull = area(
        torch.cat(
            [first[..., :2].minimum(second[..., :2]), first[..., 2:].maximum(second[..., 2:])], -1
        )
    )
    return shared / union.clamp(min=eps) - (hull - union) / hull.clamp(min=eps)


def coverage(boxes: Tensor, regions: Tensor) -> Tensor:
    """The part of each of ``(N, 4)`` boxes that lies in each of ``(M, 4)`` regions: ``(N, M)``."""
    shared, _ = _shared_and_union(boxes.unsqueeze(-2), regions.unsqueeze(-3))
    return shared / area(boxes).unsqueeze(-1).clamp(min=torch.finfo(boxes.dtype).tiny)


def _shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = first[..., :2].maximum(second[..., :2])
    high = first[..., 2:].minimum(second[..., 2:])
    sides = (high - low).clamp(min=0)
    shared = sides[..., 0] * sides[..., 1]
    return shared, area(first) + area(second) - shared
