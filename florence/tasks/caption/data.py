"""Images with one of their captions as captioning reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch
from florence.data.captions import CAPTION, captions_of
from florence.data.image_reader import Fields, ImageReader
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


class DescribedReader(ImageReader[Described, DescribedBatch]):
    """Decodes images and draws one of their captions; see :class:`SampleReader`.

    Args:
        images: how images become pixels.
        coder: how captions become tokens.
        text_length: most tokens of a caption.
        captions_per_image: how many of an image's captions are used, the first ones.
    """

    batch_type = DescribedBatch

    def __init__(
        self,
        *,
        images: AugmentedImages,
        coder: TextCoder,
        text_length: int,
        captions_per_image: int,
    ) -> None:
        super().__init__(images)
        self.coder = coder
        self.text_length = text_length
        self.captions_per_image = captions_per_image

    def read(self, sample: Sample, chance: Draw) -> Described:
        """See :class:`florence.data.stream.SampleReader`."""
        captions = captions_of(sample)[: self.captions_per_image]
        text = captions[chance.number(CAPTION) % len(captions)]
        return Described(
            self.images.pixels(sample.image_bytes, chance),
            coded(self.coder, text, self.text_length),
        )

    def fields(self, items: Sequence[Described]) -> Fields:
        """See :class:`ImageReader`."""
        ids, lengths = padded([each.tokens for each in items], self.coder.padding, self.text_length)
        return {"input_ids": ids, "lengths": lengths}
