"""Images with one class each as training reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config import Augmentation
from florence.data.arena import Arena
from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch, BrokenSample
from florence.data.image_reader import CollatedImages, Fields, ImageReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.transforms import Pixels

MIX = 13
"""The purpose of the draw of shares, beside those of the images."""


@dataclass(frozen=True, kw_only=True)
class ClassBatch(Batch):
    """Images and their classes.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        labels: int64 ``(B,)``.
        partners: int64 ``(B,)``, the class of the image that each is mixed with.
        shares: float32 ``(B,)`` in [0, 1], of ``labels`` in the mixture; 1 where none is mixed.
    """

    images: torch.Tensor
    labels: torch.Tensor
    partners: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True)
class ClassedImage:
    """One image: uint8 pixels (3, R, R), its class, and its share of a mixture."""

    pixels: Pixels
    label: int
    share: float


class ClassReader(ImageReader[ClassedImage, ClassBatch]):
    """Decodes, crops and augments images with a class; see :class:`SampleReader`.

    What is drawn for an image depends on it, the epoch and the seed. Its partner in a mixture is
    the image half of this process's batch away: batches are sorted by where samples are stored,
    so that neighbours are often of one class.

    Args:
        resolution: side of the crops.
        augmentation: how they are drawn.
        numbers: int64, the label of each of the data's classes.
        operations: of RandAugment; 0 for none.
        magnitude: of RandAugment, in [0, 10].
        mixup: alpha of the Beta distribution of shares; 0 mixes none.
    """

    batch_type = ClassBatch

    def __init__(
        self,
        *,
        resolution: int,
        augmentation: Augmentation,
        numbers: NDArray[np.int64],
        operations: int = 0,
        magnitude: float = 0.0,
        mixup: float = 0.0,
    ) -> None:
        super().__init__(
            AugmentedImages(
                resolution=resolution,
                augmentation=augmentation,
                operations=operations,
                magnitude=magnitude,
            )
        )
        self.numbers = numbers
        self.mixup = mixup

    def read(self, sample: Sample, chance: Draw) -> ClassedImage:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        assert sample.class_index is not None  # the set was opened for classes
        return ClassedImage(pixels, int(self.numbers[sample.class_index]), self._share(chance))

    def fields(self, items: Sequence[ClassedImage]) -> Fields:
        """See :class:`ImageReader`."""
        labels = np.array([item.label for item in items], np.int64)
        return {
            "labels": labels,
            "partners": np.roll(labels, len(labels) // 2) if self.mixup else labels,
            "shares": np.array([item.share for item in items], np.float32),
        }

    def batch(
        self,
        collated: CollatedImages,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> ClassBatch:
        """See :class:`florence.data.stream.SampleReader`; images are mixed on the device."""
        made = super().batch(collated, arena, device, keys, broken)
        if not self.mixup:
            return made
        share = made.shares[:, None, None, None]
        partners = made.images.roll(len(made) // 2, dims=0)
        return replace(made, images=share * made.images + (1 - share) * partners)

    def _share(self, chance: Draw) -> float:
        if not self.mixup:
            return 1.0
        return random.Random(chance.number(MIX)).betavariate(self.mixup, self.mixup)
