"""Images with a class as pairs with a text: the class's name in a template."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from florence.config import Augmentation
from florence.data.pairs import Pair, PairReader
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.text.templates import draw, render


class ClassTextReader(PairReader):
    """Pairs whose label is the class: all images of a class are positives of its texts.

    Args:
        names: of the classes. Classes of one name share a label: no text tells them apart.
        numbers: int64, for each of the data's classes its place among the names.
        templates: sentences that the names are put into, one drawn per epoch.
        resolution, augmentation, context: those of :class:`PairReader`.
    """

    def __init__(
        self,
        *,
        names: Sequence[str],
        numbers: NDArray[np.int64],
        templates: Sequence[str],
        resolution: int,
        augmentation: Augmentation,
        context: int,
    ) -> None:
        super().__init__(
            resolution=resolution, augmentation=augmentation, templates=templates, context=context
        )
        self.names = tuple(names)
        first = {name: number for number, name in reversed(list(enumerate(self.names)))}
        self.labels = [first[self.names[number]] for number in numbers.tolist()]

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = self.images.pixels(sample.image_bytes, chance)
        assert sample.class_index is not None  # the set was opened for classes
        label = self.labels[sample.class_index]
        chosen = draw(chance.seed, chance.epoch, chance.key, len(self.templates))
        return Pair(pixels, render(self.templates[chosen], self.names[label]), label)
