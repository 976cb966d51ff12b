"""Images with captions as vision-language pretraining reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch
from florence.data.captions import CAPTION, captions_of
from florence.data.hashing import uniforms
from florence.data.image_reader import Fields, ImageReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.text_batches import padded
from florence.data.transforms import Pixels
from florence.text.coding import TextCoder
from florence.text.masking import IGNORED, MaskedText, masked_text
from florence.text.normalisation import text_label

MASK, NEGATIVE = 15, 16
"""The purposes of draws, beside those of the crop and the caption."""


@dataclass(frozen=True, kw_only=True)
class CaptionedBatch(Batch):
    """Images with one caption each, in groups of G consecutive samples.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        input_ids: int64 ``(B, L)`` token ids.
        masked_ids: int64 ``(B, L)``, the same with hidden tokens.
        targets: int64 ``(B, L)``, hidden tokens; -100 elsewhere.
        lengths: int64 ``(B,)``, tokens of each text.
        is_negative: bool ``(B,)``; half of each group, which get the image of another sample.
        eligible: bool ``(B, G)``; which samples of the group have another image, which has not
            the same caption.
        chances: float32 ``(B,)`` in [0, 1), which of them is taken.
    """

    images: torch.Tensor
    input_ids: torch.Tensor
    masked_ids: torch.Tensor
    targets: torch.Tensor
    lengths: torch.Tensor
    is_negative: torch.Tensor
    eligible: torch.Tensor
    chances: torch.Tensor


@dataclass(frozen=True)
class Captioned:
    """One image with a caption: uint8 pixels (3, R, R), tokens, and what tells samples apart."""

    pixels: Pixels
    text: MaskedText
    label: int
    labels: frozenset[int]
    image: bytes
    number: int


class CaptionedReader(ImageReader[Captioned, CaptionedBatch]):
    """Decodes images, draws captions, hides tokens and chooses negatives; see
    :class:`SampleReader`.

    Args:
        images: how images become pixels.
        coder: how captions become tokens.
        text_length: most tokens of a caption.
        captions_per_image: how many of an image's captions are used, the first ones.
        mask_fraction: probability that a token is hidden.
        whole_words: hide all tokens of a word or none.
        group: G.
    """

    batch_type = CaptionedBatch

    def __init__(
        self,
        *,
        images: AugmentedImages,
        coder: TextCoder,
        text_length: int,
        captions_per_image: int,
        mask_fraction: float,
        whole_words: bool,
        group: int,
    ) -> None:
        super().__init__(images)
        self.coder = coder
        self.text_length = text_length
        self.captions_per_image = captions_per_image
        self.mask_fraction = mask_fraction
        self.whole_words = whole_words
        self.group = group

    def read(self, sample: Sample, chance: Draw) -> Captioned:
        """See :class:`florence.data.stream.SampleReader`."""
        every = captions_of(sample)
        used = every[: self.captions_per_image]
        text = used[chance.number(CAPTION) % len(used)]
        masked = masked_text(
            self.coder,
            text,
            self.text_length,
            fraction=self.mask_fraction,
            whole_words=self.whole_words,
            draw=uniforms(chance.number(MASK)),
        )
        return Captioned(
            pixels=self.images.pixels(sample.image_bytes, chance),
            text=masked,
            label=text_label(text),
            labels=frozenset(map(text_label, every)),
            image=hashlib.blake2b(sample.image_bytes, digest_size=16).digest(),
            number=chance.number(NEGATIVE),
        )

    def fields(self, items: Sequence[Captioned]) -> Fields:
        """See :class:`ImageReader`."""
        most, padding = self.text_length, self.coder.padding
        ids, lengths = padded([each.text.ids for each in items], padding, most)
        masked, _ = padded([each.text.masked for each in items], padding, most)
        targets, _ = padded([each.text.targets for each in items], IGNORED, most)
        return {
            "input_ids": ids,
            "masked_ids": masked,
            "targets": targets,
            "lengths": lengths,
            "is_negative": negatives_of([each.number for each in items], self.group),
            "eligible": eligible_in(items, self.group),
            "chances": np.array([_chance(each.number) for each in items], np.float32),
        }


def negatives_of(numbers: Sequence[int], group: int) -> NDArray[np.bool_]:
    """Which samples get another image: in each group the half with the smallest numbers.

    Args:
        numbers: drawn for the samples, a multiple of ``group``.
        group: samples of a group.
    """
    order = np.array(numbers, np.uint64).reshape(-1, group).argsort(axis=1, kind="stable")
    return (order.argsort(axis=1, kind="stable") < group // 2).reshape(-1)


def eligible_in(items: Sequence[Captioned], group: int) -> NDArray[np.bool_]:
    """Which samples of its group each sample's text does not fit: bool (B, G)."""
    found = np.zeros((len(items), group), np.bool_)
    for row, item in enumerate(items):
        start = row - row % group
        for column, other in enumerate(items[start : start + group]):
            found[row, column] = other.image != item.image and item.label not in other.labels
    return found


def _chance(number: int) -> float:
    # The low bits: the high ones decided whether the sample is a negative at all.
    return (number & 0xFFFFFF) / 0x1000000
