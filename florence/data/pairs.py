"""Image-text pairs as training reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config import Augmentation
from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch
from florence.data.image_reader import Fields, ImageReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.transforms import Pixels
from florence.text.templates import draw, render
from florence.text.tokenizer import PAD, tokenize_lists

# Token columns behind a batch's longest text are all padding. The text tower is causal and pools at
# the end token, so cutting them changes nothing but time; whole multiples keep the shapes few.
TEXT_LENGTH_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class PairBatch(Batch):
    """Image-text pairs.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        input_ids: int64 ``(B, L)`` token ids; L is the longest text's length, rounded up.
        labels: int64 ``(B,)``; equal labels are positives of each other.
    """

    images: torch.Tensor
    input_ids: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class Pair:
    """One pair: uint8 pixels (3, R, R), the text as it is tokenised, and its label."""

    pixels: Pixels
    text: str
    label: int


class PairReader(ImageReader[Pair, PairBatch]):
    """Decodes, crops and tokenises image-text pairs.

    Args:
        resolution: side of the crops.
        augmentation: how they are drawn.
        templates: sentences that short texts are put into, one drawn per epoch.
        context: positions of the text tower.
        cut_text: leave out token columns that are padding in the whole batch.
    """

    batch_type = PairBatch

    def __init__(
        self,
        *,
        resolution: int,
        augmentation: Augmentation,
        templates: Sequence[str],
        context: int,
        cut_text: bool = True,
    ) -> None:
        super().__init__(AugmentedImages(resolution=resolution, augmentation=augmentation))
        self.templates = tuple(templates)
        self.context = context
        self.cut_text = cut_text

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        text = sample.text
        if sample.short:
            chosen = draw(chance.seed, chance.epoch, chance.key, len(self.templates))
            text = render(self.templates[chosen], text)
        return Pair(pixels, text, sample.label_id)

    def fields(self, items: Sequence[Pair]) -> Fields:
        """See :class:`ImageReader`."""
        return {
            "input_ids": self._tokens([item.text for item in items]),
            "labels": np.array([item.label for item in items], np.int64),
        }

    def _tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = tokenize_lists(texts, self.context)
        length = self.context
        if self.cut_text:
            longest = max(map(len, rows))
            length = min(length, -(-longest // TEXT_LENGTH_MULTIPLE) * TEXT_LENGTH_MULTIPLE)
        ids = np.full((len(rows), length), PAD, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids
