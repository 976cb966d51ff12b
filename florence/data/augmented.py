"""A training image: cropped, then changed by RandAugment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from florence.config import Augmentation
from florence.data.arena import room_for
from florence.data.batch import to_device
from florence.data.hashing import uniforms
from florence.data.rand_augment import rand_augment
from florence.data.stream import Draw
from florence.data.transforms import Pixels, as_pixels, normalise, train_pixels

CROP, OPERATIONS = 11, 12
"""The purposes of the draws of a crop and of operations."""


@dataclass(frozen=True, kw_only=True)
class AugmentedImages:
    """How images become pixels in training.

    Attributes:
        resolution: side of the crops.
        augmentation: how they are drawn.
        operations: of RandAugment; 0 for none.
        magnitude: of RandAugment, in [0, 10].
    """

    resolution: int
    augmentation: Augmentation
    operations: int = 0
    magnitude: float = 0.0

    def pixels(self, data: bytes, chance: Draw) -> Pixels:
        """uint8 ``(3, R, R)`` of a file; a pure function of it and the draw.

        Raises :class:`~florence.data.images.BrokenImageError`.
        """
        pixels = train_pixels(data, self.resolution, self.augmentation, chance.number(CROP))
        if not self.operations:
            return pixels
        draw: Iterator[float] = uniforms(chance.number(OPERATIONS))
        image = rand_augment(
            Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))),
            operations=self.operations,
            magnitude=self.magnitude,
            draw=draw,
        )
        return as_pixels(image)

    def bulk_bytes(self, rows: int) -> int:
        """Bytes that the pixels of so many images take; see ``SampleReader``."""
        return room_for(math.prod((rows, 3, self.resolution, self.resolution)))

    def normalised(self, pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """float32 of uint8 ``(B, 3, R, R)``, on a device, to which they travel as bytes."""
        moved = to_device(torch.from_numpy(pixels), device)
        return normalise(moved, self.augmentation.mean, self.augmentation.std)
