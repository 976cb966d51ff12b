"""Images of which each may have several classes, for average precision (Pascal VOC 2007)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from florence.config.storage import S3Settings
from florence.data.labelled import ShardImages
from florence.data.left_out import check_whole
from florence.data.manifest import read_class_names
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.errors import DataError


@dataclass(frozen=True)
class MultiLabelImages:
    """Images of shards whose json members list their classes.

    ``{"labels": [0, 14], "difficult": [4]}``: class numbers, or names. A class under ``difficult``
    counts neither way for that image, as in VOC.
    """

    images: ShardImages
    class_names: tuple[str, ...] | None
    """What ``classes.json`` beside the shards lists, by class number."""

    @classmethod
    def open(cls, uri: str, s3: S3Settings | None = None, **opening: Any) -> Self:
        """The shards at a URI. Raises :class:`DataError` when there are none."""
        shards = ShardSet.open(uri, s3, need=Need.IMAGE, **opening)
        check_whole(shards)
        return cls(ShardImages(shards), read_class_names(shards.storage))

    def __len__(self) -> int:
        return len(self.images)

    def truth(
        self, i: int, numbers: Mapping[str, int], classes: int
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which classes image ``i`` has, and which do not count for it: bool ``(classes,)`` each.

        Args:
            i: which image.
            numbers: class numbers by name, for labels that are names.
            classes: how many there are.

        Raises:
            DataError: the sample has no ``labels``, or one that names no class; names the sample.
        """
        shards = self.images.shards
        where = f"{shards.shard_of(i)}: sample {shards.key(i)}"
        try:
            document = shards.read(i).meta
        except BrokenSampleError as error:
            raise DataError(f"{shards.uri}: {error}") from error
        if not isinstance(document.get("labels"), list):
            raise DataError(
                f"{where} has no list 'labels' in its json: write {{\"labels\": [0, 14]}}"
            )
        has, difficult = np.zeros(classes, np.bool_), np.zeros(classes, np.bool_)
        has[_numbers(document["labels"], numbers, classes, where)] = True
        difficult[_numbers(document.get("difficult", []), numbers, classes, where)] = True
        return has, difficult & ~has


def _numbers(
    values: Sequence[Any], numbers: Mapping[str, int], classes: int, where: str
) -> list[int]:
    found = []
    for value in values:
        number = numbers.get(value) if isinstance(value, str) else value
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < classes:
            raise DataError(
                f"{where} has the label {value!r}, which names none of {classes} classes"
            )
        found.append(number)
    return found
