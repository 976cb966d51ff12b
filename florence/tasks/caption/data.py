"""Images with one of their captions as captioning reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from florence.data.arena import Arena, Stored
from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch, BrokenSample, to_device
from florence.data.captions import CAPTION, captions_of
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.text_batches import padded
from florence.data.transforms import Pixels
from florence.text.coding import TextCoder, coded


@dataclass(frozen=True, kw_only=True)
class DescribedBatch(Batch):
    """Images with a caption each.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        input_ids: int64 ``(B, L)`` token ids, start and end included.
        lengths: int64 ``(B,)``, tokens of each caption.
    """

    images: torch.Tensor
    input_ids: torch.Tensor
    lengths: torch.Tensor


@dataclass(frozen=True)
class Described:
    """One image: uint8 pixels (3, R, R) and the tokens of a caption."""

    pixels: Pixels
    tokens: list[int]


@dataclass(frozen=True)
class _Collated:
    pixels: Stored
    input_ids: NDArray[np.int64]
    lengths: NDArray[np.int64]


class DescribedReader:
    """Decodes images and draws one of their captions; see :class:`SampleReader`.

    Args:
        images: how images become pixels.
        coder: how captions become tokens.
        text_length: most tokens of a caption.
        captions_per_image: how many of an image's captions are used, the first ones.
    """

    def __init__(
        self,
        *,
        images: AugmentedImages,
        coder: TextCoder,
        text_length: int,
        captions_per_image: int,
    ) -> None:
        self.images = images
        self.coder = coder
        self.text_length = text_length
        self.captions_per_image = captions_per_image

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return self.images.bulk_bytes(rows)

    def read(self, sample: Sample, chance: Draw) -> Described:
        """See :class:`florence.data.stream.SampleReader`."""
        captions = captions_of(sample)[: self.captions_per_image]
        text = captions[chance.number(CAPTION) % len(captions)]
        return Described(
            self.images.pixels(sample.image_bytes, chance),
            coded(self.coder, text, self.text_length),
        )

    def collate(self, items: Sequence[Described], arena: Arena) -> _Collated:
        """See :class:`florence.data.stream.SampleReader`."""
        ids, lengths = padded([each.tokens for each in items], self.coder.padding, self.text_length)
        return _Collated(arena.stack([each.pixels for each in items]), ids, lengths)

    def batch(
        self,
        collated: _Collated,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> DescribedBatch:
        """See :class:`florence.data.stream.SampleReader`; pixels travel as bytes."""
        return DescribedBatch(
            keys=keys,
            broken=broken,
            images=self.images.normalised(arena.array(collated.pixels), device),
            input_ids=to_device(torch.from_numpy(collated.input_ids), device),
            lengths=to_device(torch.from_numpy(collated.lengths), device),
        )
