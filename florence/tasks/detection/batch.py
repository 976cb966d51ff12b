"""Images with boxes as training reads them: images of any size, targets of any number of boxes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self

import torch
from torch import Tensor

from florence.data.batch import Batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """What is to be found in one image of N objects, among K classes; each is equal to itself only.

    Attributes:
        boxes: float32 ``(N, 4)``, x1 y1 x2 y2 in pixels of the image as the model sees it.
        labels: int64 ``(N,)`` in ``[0, K)``, places in the stage's list of classes.
        crowd: bool ``(N,)``: a region of many objects, or of some that nobody counted. Nothing is
            learnt from it, neither that there is an object nor that there is none.
        scores: float32 ``(N,)`` in ``[0, 1]``: 1 for a person's box, a detector's score for its
            own. What the box's part of the loss is multiplied by.
        annotated: bool ``(K,)``: the classes that were looked for in this image; nothing is learnt
            about others, whose absence from the boxes says nothing. ``None``: all of them.
        attributes: bool ``(N, A)``: which attributes an object has. ``None``: not known.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    scores: Tensor
    annotated: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, boxes: Tensor, labels: Tensor) -> Self:
        """Boxes that people drew around one object each, in an image with all classes annotated."""
        return cls(
            boxes=boxes.float().reshape(-1, 4),
            labels=labels.long(),
            crowd=torch.zeros(len(labels), dtype=torch.bool, device=boxes.device),
            scores=torch.ones(len(labels), device=boxes.device),
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The target with its tensors on a device."""
        moved = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


@dataclass(frozen=True, kw_only=True)
class DetectionBatch(Batch):
    """Images and what is to be found in them.

    Padding to one size is the objective's business, chunk by chunk: images stay as they are here.

    Attributes:
        images: uint8 ``(3, H, W)`` each, of any sizes.
        targets: one for every image.
    """

    images: tuple[Tensor, ...]
    targets: tuple[Target, ...]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch with its tensors on a device."""
        moved = super().to(device, non_blocking=non_blocking)
        targets = tuple(target.to(device, non_blocking=non_blocking) for target in self.targets)
        return replace(moved, targets=targets)
