"""Images of any size as tensors that go through a model: normalised, padded, grouped by size.

Each image is padded to its own next multiples of 32 and never further, and those of one padded size
form a group. So what is said about an image depends on that image only, whatever else is in its
chunk, on its rank or in its batch, and nothing is computed for padding beyond the last 31 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from florence.data.transforms import normalise
from florence.tasks.detection.detector import MULTIPLE

Triple = tuple[float, float, float]
Size = tuple[int, int]


class Group(NamedTuple):
    """Images of one padded size."""

    indices: tuple[int, ...]
    """Which of the chunk's images they are."""
    size: Size
    """Height and width, multiples of 32."""


def padded_size(height: int, width: int) -> Size:
    """The next multiples of 32."""
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


def grouped(images: Sequence[Tensor], *, at_least: int = 1) -> list[Group]:
    """Groups of the images of one padded size each, in the order of their first images.

    Args:
        images: ``(3, H, W)`` each.
        at_least: groups to make where there are as many images, by cutting larger ones: where a
            model's parameters are gathered from all ranks at every call (ZeRO-3), all ranks must
            make as many calls.
    """
    by_size: dict[Size, list[int]] = {}
    for index, image in enumerate(images):
        by_size.setdefault(padded_size(*image.shape[-2:]), []).append(index)
    groups = [Group(tuple(indices), size) for size, indices in by_size.items()]
    while len(groups) < min(at_least, len(images)):
        place = max(range(len(groups)), key=lambda number: len(groups[number].indices))
        indices, size = groups[place]
        half = len(indices) // 2
        groups[place : place + 1] = [Group(indices[:half], size), Group(indices[half:], size)]
    return groups


def stacked(images: Sequence[Tensor], group: Group, mean: Triple, std: Triple) -> Tensor:
    """A group's images, fp32 ``(B, 3, H, W)``, normalised; padding at the bottom and right is 0.

    Args:
        images: uint8 ``(3, h, w)`` each, on one device; those of the whole chunk.
        group: which of them.
        mean, std: of the channels in [0, 1].
    """
    height, width = group.size
    rows = []
    for index in group.indices:
        pixels = normalise(images[index][None], mean, std)[0]
        rows.append(F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2])))
    return torch.stack(rows)
