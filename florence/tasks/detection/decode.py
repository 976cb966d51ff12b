"""From raw predictions to boxes: threshold, the best of each level, suppression, the best of all.

Shapes: A anchors, K classes, N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor

from florence.config.detection import Inference
from florence.tasks.detection.anchors import Level, anchors
from florence.tasks.detection.box_coder import decode
from florence.tasks.detection.boxes import clip, mirror
from florence.tasks.detection.nms import class_nms, soft_nms, vote


class Detections(NamedTuple):
    """Boxes found in one image, best first where nothing else is said."""

    boxes: Tensor
    """fp32 ``(N, 4)``, x1 y1 x2 y2 in pixels."""
    scores: Tensor
    """fp32 ``(N,)`` in [0, 1]."""
    labels: Tensor
    """int64 ``(N,)``."""

    def pick(self, numbers: Tensor) -> Self:
        """Some of them, by number or mask."""
        return type(self)(self.boxes[numbers], self.scores[numbers], self.labels[numbers])

    def on_image(self, scale_y: float, scale_x: float, height: int, width: int) -> Self:
        """Where they are on the image before it was resized, cut off at its borders.

        Args:
            scale_y, scale_x: pixels as the model saw them over pixels of the image.
            height, width: of the image.
        """
        scale = self.boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
        return self._replace(boxes=clip(self.boxes / scale, height, width))

    def mirrored(self, width: int) -> Self:
        """Those of the image mirrored left to right."""
        return self._replace(boxes=mirror(self.boxes, width))

    def cpu(self) -> Self:
        """The same on the CPU."""
        return type(self)(*(tensor.cpu() for tensor in self))


def candidates(
    logits: Tensor,
    deltas: Tensor,
    centerness: Tensor,
    levels: Sequence[Level],
    settings: Inference,
) -> Detections:
    """The boxes of one image before suppression: the best of every level above the threshold.

    A class is probable enough by itself; what boxes are ranked by is its probability times the
    centerness.

    Args:
        logits: ``(A, K)``.
        deltas: ``(A, 4)``.
        centerness: ``(A,)`` logits.
        levels: of the pyramid.
        settings: threshold, and how many a level.
    """
    every = anchors(tuple(levels), logits.device)
    found = []
    start = 0
    for level in levels:
        own = slice(start, start + level.cells)
        start += level.cells
        probability = logits[own].float().sigmoid()
        rows, labels = (probability > settings.score_threshold).nonzero(as_tuple=True)
        scores = probability[rows, labels] * centerness[own].float().sigmoid()[rows]
        best = scores.sort(descending=True, stable=True).indices[: settings.candidates]
        rows, labels = rows[best], labels[best]
        boxes = decode(deltas[own][rows], every[own][rows])
        found.append(Detections(boxes, scores[best], labels))
    return joined(found)


def joined(parts: Sequence[Detections]) -> Detections:
    """Boxes of several levels or looks, one after the other."""
    return Detections(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def suppressed(found: Detections, settings: Inference) -> Detections:
    """Of boxes that are about the same object one, and of all the best, best first."""
    if settings.soft_nms_sigma is not None:
        numbers, scores = soft_nms(
            found.boxes, found.scores, found.labels, sigma=settings.soft_nms_sigma
        )
        kept = found.pick(numbers)._replace(scores=scores)
    else:
        kept = found.pick(class_nms(found.boxes, found.scores, found.labels, settings.nms_iou))
    kept = kept.pick(torch.arange(min(len(kept.scores), settings.max_detections)))
    if settings.voting_iou is not None and len(kept.scores):
        boxes = vote(
            kept.boxes, kept.labels, found.boxes, found.scores, found.labels, settings.voting_iou
        )
        kept = kept._replace(boxes=boxes)
    return kept
