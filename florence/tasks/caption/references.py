"""Images with all their captions, and the numbers that decide what a model draws of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from florence.data.augmented import AugmentedImages
from florence.data.batch import Batch
from florence.data.captions import captions_of
from florence.data.hashing import uniforms
from florence.data.image_reader import Fields, ImageReader
from florence.data.ordered_map import map_in_threads
from florence.data.shards import BrokenSampleError, Sample, ShardSet
from florence.data.stream import Draw
from florence.data.transforms import Pixels
from florence.text.caption_metrics import CiderWeights, Words, words_of

WRITING = 17
"""The purpose of the draws of words, beside those of crops and captions."""
END = "</s>"
"""Stands behind captions as a word: else one learns to stop within a phrase that others end with.
"""
READERS = 16


@dataclass(frozen=True, kw_only=True)
class ReferencedBatch(Batch):
    """Images with what people wrote of them.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        chances: float64 ``(B, S, T)`` in [0, 1): by image, text that is drawn, and token.
        references: the captions of each image.
    """

    images: torch.Tensor
    chances: torch.Tensor
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Referenced:
    """One image: uint8 pixels (3, R, R), its captions, and float64 (S, T)."""

    pixels: Pixels
    captions: tuple[str, ...]
    chances: NDArray[np.float64]


class ReferencedReader(ImageReader[Referenced, ReferencedBatch]):
    """Decodes images and keeps their captions as texts; see :class:`SampleReader`.

    Args:
        images: how images become pixels.
        captions_per_image: how many of an image's captions are used, the first ones.
        samples: S, texts that are drawn of each image.
        length: T, most tokens of a text beside its start.
    """

    batch_type = ReferencedBatch

    def __init__(
        self, *, images: AugmentedImages, captions_per_image: int, samples: int, length: int
    ) -> None:
        super().__init__(images)
        self.captions_per_image = captions_per_image
        self.samples = samples
        self.length = length

    def read(self, sample: Sample, chance: Draw) -> Referenced:
        """See :class:`florence.data.stream.SampleReader`."""
        count = self.samples * self.length
        chances = np.fromiter(islice(uniforms(chance.number(WRITING)), count), np.float64, count)
        return Referenced(
            pixels=self.images.pixels(sample.image_bytes, chance),
            captions=captions_of(sample)[: self.captions_per_image],
            chances=chances.reshape(self.samples, self.length),
        )

    def fields(self, items: Sequence[Referenced]) -> Fields:
        """See :class:`ImageReader`."""
        return {
            "chances": np.stack([each.chances for each in items]),
            "references": tuple(each.captions for each in items),
        }


def ended(caption: str) -> Words:
    """A caption's words, as metrics count them, with one that says that it ends there."""
    return (*words_of(caption), END)


def weights_of(
    shards: ShardSet, captions_per_image: int, on_images: Callable[[int, int], None]
) -> CiderWeights:
    """How rare sequences of words are in the captions of a set; every image is read once.

    Samples that cannot be read count for nothing: training replaces them.

    Args:
        shards: the images.
        captions_per_image: how many of an image's captions count, the first ones.
        on_images: told after every thousand how many images were read, of how many.
    """

    def read(i: int) -> tuple[str, ...]:
        try:
            return captions_of(shards.read(i))[:captions_per_image]
        except BrokenSampleError:
            return ()

    def known() -> Iterator[list[Words]]:
        found = map_in_threads(read, iter(range(len(shards))), READERS)
        for done, captions in enumerate(found, 1):
            if done % 1_000 == 0:
                on_images(done, len(shards))
            if captions:
                yield [ended(caption) for caption in captions]

    return CiderWeights(known())
