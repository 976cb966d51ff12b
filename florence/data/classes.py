"""Images with one class each as training reads them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config import Augmentation
from florence.data.arena import Arena, Stored
from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch, BrokenSample, to_device
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


@dataclass(frozen=True)
class _Collated:
    pixels: Stored
    labels: NDArray[np.int64]
    shares: NDArray[np.float32]


class ClassReader:
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
        self.images = AugmentedImages(
            resolution=resolution,
            augmentation=augmentation,
            operations=operations,
            magnitude=magnitude,
        )
        self.numbers = numbers
        self.mixup = mixup

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return self.images.bulk_bytes(rows)

    def read(self, sample: Sample, chance: Draw) -> ClassedImage:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        assert sample.class_index is not None  # the set was opened for classes
        return ClassedImage(pixels, int(self.numbers[sample.class_index]), self._share(chance))

    def collate(self, items: Sequence[ClassedImage], arena: Arena) -> _Collated:
        """See :class:`florence.data.stream.SampleReader`."""
        return _Collated(
            arena.stack([item.pixels for item in items]),
            np.array([item.label for item in items], np.int64),
            np.array([item.share for item in items], np.float32),
        )

    def batch(
        self,
        collated: _Collated,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> ClassBatch:
        """See :class:`florence.data.stream.SampleReader`; pixels travel as bytes."""
        images = self.images.normalised(arena.array(collated.pixels), device)
        labels = to_device(torch.from_numpy(collated.labels), device)
        shares = to_device(torch.from_numpy(collated.shares), device)
        partners = labels
        if self.mixup:
            away = len(labels) // 2
            share = shares[:, None, None, None]
            images = share * images + (1 - share) * images.roll(away, dims=0)
            partners = labels.roll(away)
        return ClassBatch(
            keys=keys,
            broken=broken,
            images=images,
            labels=labels,
            partners=partners,
            shares=shares,
        )

    def _share(self, chance: Draw) -> float:
        if not self.mixup:
            return 1.0
        return random.Random(chance.number(MIX)).betavariate(self.mixup, self.mixup)
