"""Image-text pairs as training reads them."""

from __future__ import annotations

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


@dataclass(frozen=True)
class _Collated:
    pixels: Stored
    input_ids: NDArray[np.int64]
    labels: NDArray[np.int64]


class PairReader:
    """Decodes, crops and tokenises image-text pairs.

    Args:
        resolution: side of the crops.
        augmentation: how they are drawn.
        templates: sentences that short texts are put into, one drawn per epoch.
        context: positions of the text tower.
        cut_text: leave out token columns that are padding in the whole batch.
    """

    def __init__(
        self,
        *,
        resolution: int,
        augmentation: Augmentation,
        templates: Sequence[str],
        context: int,
        cut_text: bool = True,
    ) -> None:
        self.images = AugmentedImages(resolution=resolution, augmentation=augmentation)
        self.templates = tuple(templates)
        self.context = context
        self.cut_text = cut_text

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return self.images.bulk_bytes(rows)

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        text = sample.text
        if sample.short:
            chosen = draw(chance.seed, chance.epoch, chance.key, len(self.templates))
            text = render(self.templates[chosen], text)
        return Pair(pixels, text, sample.label_id)

    def collate(self, items: Sequence[Pair], arena: Arena) -> _Collated:
        """See :class:`florence.data.stream.SampleReader`."""
        return _Collated(
            arena.stack([item.pixels for item in items]),
            self._tokens([item.text for item in items]),
            np.array([item.label for item in items], np.int64),
        )

    def batch(
        self,
        collated: _Collated,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> PairBatch:
        """See :class:`florence.data.stream.SampleReader`; pixels travel as bytes."""
        return PairBatch(
            keys=keys,
            broken=broken,
            images=self.images.normalised(arena.array(collated.pixels), device),
            input_ids=to_device(torch.from_numpy(collated.input_ids), device),
            labels=to_device(torch.from_numpy(collated.labels), device),
        )

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
