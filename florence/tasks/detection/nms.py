"""Of boxes that are about the same object, one: non-maximum suppression and its softer kin."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from florence.tasks.detection.boxes import pairwise_iou
from florence.tasks.detection.compiled_ops import compiled_op

FIRST, BLOCK = 64, 1_024
"""Boxes that are decided together: at first, and where few fall to those, which is told by the
first; so many that all of their pairs can be held."""
MANY = 0.5
"""Of the boxes behind a block: where more of them fall to it, small blocks leave less to do."""
SLACK = 0.01
"""Of a box's width: more than rounding moves an edge."""


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Boxes that overlap no better one that stays by more than ``threshold``, best first.

    By torchvision's compiled operator where that loads.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``; of equal ones the lower number is better.
        threshold: largest IoU of two boxes that stay, in [0, 1].

    Returns:
        int64 ``(M,)``, numbers of those that stay.
    """
    compiled = compiled_op("nms")
    if compiled is not None and len(boxes):
        order = scores.argsort(descending=True, stable=True)
        # The operator sorts again, and not always stably: it is given ranks that cannot be equal.
        ranks = torch.arange(len(order), 0, -1, device=boxes.device)
        kept: Tensor = compiled(boxes[order], ranks.to(boxes.dtype), threshold)
        return order[kept]
    return plain_nms(boxes, scores, threshold)


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """:func:`nms` in plain torch, a block of boxes at a time, the best first.

    What stays of a block is decided among its own boxes; then everything behind it that falls to
    those is left out, so that later blocks are made of what is still in question.
    """
    order = scores.argsort(descending=True, stable=True)
    sides = boxes[order].T.contiguous()
    stays, block = [], FIRST
    while len(order):
        decide = _of_few if block == FIRST else _of_many
        is_kept, is_left = decide(sides, min(block, len(order)), threshold)
        stays.append(order[:block][is_kept])
        order, sides = order[block:][is_left], sides[:, block:][:, is_left]
        block = FIRST if len(order) < (1 - MANY) * len(is_left) else BLOCK
    return torch.cat(stays) if stays else order


def _of_few(sides: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Which of the first ``count`` boxes stay, and which behind them do not fall to those, bool.

    Args:
        sides: ``(4, N)``, best first.
        count: of boxes that are decided.
        threshold: largest IoU of two boxes that stay.
    """
    falls = _overlaps(sides[:, :count], sides, threshold)
    is_kept = _greedy(count, *falls[:, :count].triu(1).nonzero(as_tuple=True))
    return is_kept, ~falls[is_kept, count:].any(dim=0)


def _of_many(sides: Tensor, count: int, threshold: float) -> tuple[Tensor, Tensor]:
    """:func:`_of_few` where not all pairs are worth looking at."""
    is_kept = _greedy(count, *_pairs(sides[:, :count], threshold))
    best, rest = sides[:, :count][:, is_kept], sides[:, count:]
    return is_kept, ~_overlaps(best, rest, threshold).any(dim=0)


def _pairs(sides: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """The pairs of boxes that overlap, int64 ``(P,)`` each: the better one and the worse one.

    Boxes are walked through from left to right. The width that two share is at least the threshold
    times that of either, so that a box's partners to the right begin within the rest of its width:
    of N² / 2 pairs a few per cent are looked at.

    Args:
        sides: ``(4, N)``, best first.
        threshold: smallest IoU, exclusive.
    """
    x1, order = sides[0].sort()
    sides = sides[:, order]
    reach = x1 + (1 - threshold + SLACK) * (sides[2] - x1).clamp(min=0)
    place = torch.arange(len(x1), device=x1.device)
    counts = torch.searchsorted(x1, reach, right=True) - place - 1
    left = place.repeat_interleave(counts)
    right = torch.arange(len(left), device=x1.device)
    right = right + (place + 1 + counts - counts.cumsum(0)).index_select(0, left)
    one, other = sides.index_select(1, left), sides.index_select(1, right)
    low, high = torch.maximum(one[:2], other[:2]), torch.minimum(one[2:], other[2:])
    width, height = (high - low).clamp_(min=0)
    size = (sides[2] - sides[0]) * (sides[3] - sides[1]) * threshold
    least = size.index_select(0, left) + size.index_select(0, right)
    found = (width * height * (1 + threshold) > least).nonzero().squeeze(1)
    first, second = order[left[found]], order[right[found]]
    return torch.minimum(first, second), torch.maximum(first, second)


def _greedy(count: int, better: Tensor, worse: Tensor) -> Tensor:
    """Which of ``count`` boxes, best first, stay, bool; they fall to better ones that stay.

    All are decided together, from the answers of the round before, until nothing changes: as many
    rounds as the longest chain of boxes that fall each to the one before, which is short.
    """
    stays = torch.ones(count, dtype=torch.bool, device=better.device)
    while True:
        decided = torch.ones_like(stays)
        decided[worse[stays[better]]] = False
        if torch.equal(decided, stays):
            return stays
        stays = decided


def _overlaps(first: Tensor, second: Tensor, threshold: float) -> Tensor:
    """Whether the IoU is above the threshold, bool ``(N, M)``, of boxes as ``(4, N)``, ``(4, M)``.

    In place and by sides: tensors of pairs are what this costs.
    """
    x1, y1, x2, y2 = first[:, :, None]
    width = torch.minimum(x2, second[2]).sub_(torch.maximum(x1, second[0])).clamp_(min=0)
    height = torch.minimum(y2, second[3]).sub_(torch.maximum(y1, second[1]))
    # shared / (size + size - shared) > t, without a division or a tensor of unions.
    shared = width.mul_(height).mul_(1 + threshold)
    size = (x2 - x1) * (y2 - y1) * threshold
    least: Tensor = size + (second[2] - second[0]) * (second[3] - second[1]) * threshold
    return shared > least


def class_nms(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """:func:`nms` in which boxes of different classes do not touch each other."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    # Each class gets a place of its own, so far apart that none overlap; in fp64, which keeps the
    # overlaps within a class as exact as they are.
    low = boxes.amin()
    apart = (boxes.amax() - low + 1).double()
    return nms(boxes.double() - low + labels.double()[:, None] * apart, scores, threshold)


def soft_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, *, sigma: float = 0.5, least: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Scores that fall by exp(-IoU² / sigma) for each better box of their class (1704.04503).

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        labels: int64 ``(N,)``.
        sigma: the larger, the less they fall.
        least: boxes whose score falls below it are left out.

    Returns:
        Numbers of the boxes, int64 ``(M,)``, and their scores now, best first.
    """
    overlap = pairwise_iou(boxes, boxes) * (labels[:, None] == labels)
    decay = torch.exp(-overlap.square() / sigma)
    left = scores.clone().double()
    chosen, values = [], []
    for _ in range(len(boxes)):
        best = int(left.argmax())
        value = float(left[best])
        if value < least:
            break
        chosen.append(best)
        values.append(value)
        left = left * decay[best]
        left[chosen] = -math.inf
    return (
        torch.tensor(chosen, dtype=torch.int64, device=boxes.device),
        torch.tensor(values, dtype=scores.dtype, device=boxes.device),
    )


def vote(
    kept: Tensor, kept_labels: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, least: float
) -> Tensor:
    """Kept boxes as means of all boxes of their class that overlap them (box voting, 1505.01749).

    Args:
        kept: ``(M, 4)``, each of which is one of ``boxes``.
        kept_labels: int64 ``(M,)``.
        boxes: ``(N, 4)``, all there were.
        scores: ``(N,)``, the weights of the means.
        labels: int64 ``(N,)``.
        least: smallest IoU with which a box has a vote.
    """
    overlap = pairwise_iou(kept, boxes)
    has_vote = (overlap >= least) & (kept_labels[:, None] == labels)
    weights = torch.where(has_vote, scores, torch.zeros_like(scores))
    return (weights @ boxes) / weights.sum(dim=1, keepdim=True)
