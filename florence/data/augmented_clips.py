"""A training clip: a random span of a video, cropped and changed alike in all its frames."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config.video import ClipSampling
from florence.data.arena import room_for
from florence.data.augmented import CROP, OPERATIONS, AugmentedImages
from florence.data.stream import Draw
from florence.data.transforms import Pixels
from florence.data.video.pixels import augmented, train_clip

SPAN = 21
"""The purpose of the draw of a span, beside those of images."""


@dataclass(frozen=True, kw_only=True)
class AugmentedClips(AugmentedImages):
    """How videos become pixels in training; the fields of images hold for every frame.

    Attributes:
        sampling: which frames.
    """

    sampling: ClipSampling

    def pixels(self, data: bytes, chance: Draw) -> Pixels:
        """uint8 ``(T, 3, R, R)`` of a file; a pure function of it and the draw.

        Raises :class:`~florence.data.video.files.BrokenClipError`.
        """
        clip = train_clip(
            data,
            self.resolution,
            self.sampling,
            self.augmentation,
            span=chance.number(SPAN),
            crop=chance.number(CROP),
        )
        return augmented(
            clip,
            operations=self.operations,
            magnitude=self.magnitude,
            number=chance.number(OPERATIONS),
        )

    def bulk_bytes(self, rows: int) -> int:
        """Bytes that the pixels of so many clips take; see ``SampleReader``."""
        shape = (rows, self.sampling.frames, 3, self.resolution, self.resolution)
        return room_for(math.prod(shape))

    def normalised(self, pixels: NDArray[np.uint8], device: torch.device) -> torch.Tensor:
        """float32 ``(B, 3, T, R, R)`` of uint8 ``(B, T, 3, R, R)``, as a tower takes them."""
        return super().normalised(pixels, device).transpose(1, 2)
