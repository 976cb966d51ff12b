"""What a detector minimises: focal loss of classes, GIoU of boxes, cross-entropy of centerness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.tasks.detection.boxes import centres, generalized_iou

ALPHA = 0.25
GAMMA = 2.0


def focal_terms(logits: Tensor, is_class: Tensor) -> Tensor:
    """The focal loss of each logit (arXiv 1708.02002): -α_t (1 - p_t)^γ ln p_t, γ = 2, α = 0.25.

    Args:
        logits: floating point of any shape; computed in fp32.
        is_class: bool of the same shape: whether the class is there.
    """
    logits = logits.float()
    signed = torch.where(is_class, logits, -logits)
    weight = torch.where(is_class, ALPHA, 1 - ALPHA)
    return weight * (-signed).sigmoid().pow(GAMMA) * F.softplus(-signed)


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    ignored: Tensor | None = None,
) -> Tensor:
    """The sum of focal losses over anchors and classes, a scalar in fp32.

    Classes that are absent are the most by far and all treated alike, so that the present ones are
    a correction to a sum in which nothing is present: no target of the logits' size is made.

    Args:
        logits: ``(A, K)``.
        labels: int64 ``(A,)``, -1 for background.
        weights: ``(A,)``, what each anchor's terms are multiplied by.
        ignored: bool ``(A, K)``, terms that do not count.
    """
    logits = logits.float()
    absent = (1 - ALPHA) * logits.sigmoid().pow(GAMMA) * F.softplus(logits)
    if ignored is not None:
        absent = absent.masked_fill(ignored, 0.0)
    total = (absent.sum(dim=1) * (1.0 if weights is None else weights)).sum()
    rows = (labels >= 0).nonzero().squeeze(1)
    if len(rows) == 0:
        return total
    columns = labels[rows]
    present = focal_terms(logits[rows, columns], torch.ones_like(columns, dtype=torch.bool))
    correction = present - absent[rows, columns]
    if ignored is not None:
        correction = correction.masked_fill(ignored[rows, columns], 0.0)
    return total + (correction * (1.0 if weights is None else weights[rows])).sum()


def giou_loss(boxes: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum of 1 - GIoU over boxes ``(P, 4)``, each multiplied by its weight ``(P,)``."""
    return ((1 - generalized_iou(boxes, targets)) * weights).sum()


def centerness_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum of weighted binary cross-entropies of logits ``(P,)`` to targets in [0, 1]."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets, weights, reduction="sum")


def centerness(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How near to the middle of its box each anchor's centre is: 1 there, 0 on the border.

    The root of min(l, r) / max(l, r) * min(t, b) / max(t, b), of the distances to the four sides
    (FCOS, arXiv 1904.01355).

    Args:
        anchors: ``(P, 4)``, with centres in their boxes.
        boxes: ``(P, 4)``.
    """
    middle = centres(anchors)
    before, after = middle - boxes[..., :2], boxes[..., 2:] - middle
    ratio = before.minimum(after) / before.maximum(after)
    return ratio.clamp(min=0).prod(dim=-1).sqrt()
