"""What readers of augmented images have in common: how they become a batch on its device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from florence.data.arena import Arena, Stored
from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch, BrokenSample, to_device
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.transforms import Pixels


class HasPixels(Protocol):
    """A sample with uint8 pixels ``(3, R, R)``."""

    @property
    def pixels(self) -> Pixels: ...


ItemT = TypeVar("ItemT", bound=HasPixels)
BatchT = TypeVar("BatchT", bound=Batch)
Fields = dict[str, "NDArray[Any] | tuple[Any, ...]"]


@dataclass(frozen=True)
class CollatedImages:
    """Where a batch's pixels are, and what its other fields are."""

    pixels: Stored
    fields: Fields


class ImageReader(ABC, Generic[ItemT, BatchT]):
    """A :class:`florence.data.stream.SampleReader` whose batches have ``images`` and other fields.

    Args:
        images: how images become pixels.
    """

    batch_type: ClassVar[type[Batch]]
    """A batch with a field ``images`` and those of :meth:`fields`."""

    def __init__(self, images: AugmentedImages) -> None:
        self.images = images

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return self.images.bulk_bytes(rows)

    @abstractmethod
    def read(self, sample: Sample, chance: Draw) -> ItemT:
        """See :class:`florence.data.stream.SampleReader`."""

    @abstractmethod
    def fields(self, items: Sequence[ItemT]) -> Fields:
        """Fields beside the images: arrays with a row a sample, tuples with an entry a sample."""

    def collate(self, items: Sequence[ItemT], arena: Arena) -> CollatedImages:
        """See :class:`florence.data.stream.SampleReader`."""
        return CollatedImages(arena.stack([item.pixels for item in items]), self.fields(items))

    def batch(
        self,
        collated: CollatedImages,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> BatchT:
        """See :class:`florence.data.stream.SampleReader`; pixels travel as bytes."""
        fields: dict[str, Any] = {
            name: to_device(torch.from_numpy(value), device)
            if isinstance(value, np.ndarray)
            else value
            for name, value in collated.fields.items()
        }
        fields["images"] = self.images.normalised(arena.array(collated.pixels), device)
        made: BatchT = self.batch_type(keys=keys, broken=broken, **fields)  # type: ignore[assignment]
        return made
