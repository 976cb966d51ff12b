"""Images with several captions as pairs with one of them."""

from __future__ import annotations

import hashlib

from florence.config import Augmentation
from florence.data.pairs import Pair, PairReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.text.normalisation import text_label

CAPTION = 14
"""The purpose of the draw of a caption."""


class CaptionReader(PairReader):
    """Pairs of an image and one of its captions, drawn anew in every epoch.

    Args:
        by_image: whether copies of an image share a label, else equal captions do.
        captions_per_image: how many of an image's captions are used, the first ones.
        resolution, augmentation, context: those of :class:`PairReader`.
    """

    def __init__(
        self,
        *,
        by_image: bool,
        captions_per_image: int,
        resolution: int,
        augmentation: Augmentation,
        context: int,
    ) -> None:
        super().__init__(
            resolution=resolution, augmentation=augmentation, templates=(), context=context
        )
        self.by_image = by_image
        self.captions_per_image = captions_per_image

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        captions = captions_of(sample)[: self.captions_per_image]
        text = captions[chance.number(CAPTION) % len(captions)]
        return Pair(pixels, text, _label(sample) if self.by_image else text_label(text))


def captions_of(sample: Sample) -> tuple[str, ...]:
    """All ``captions`` of a sample's json where it lists some, else its text."""
    listed = sample.meta.get("captions")
    texts = [each for each in listed if isinstance(each, str)] if isinstance(listed, list) else []
    return tuple(texts) or (sample.text,)


def _label(sample: Sample) -> int:
    """One number for all copies of an image: 64 bits of its bytes' digest, signed."""
    digest = hashlib.blake2b(sample.image_bytes, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
