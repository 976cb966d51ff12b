"""The objects of an image as numbers: classes by their place in a list, in numpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from florence.data.boxes import AnnotatedImage
from florence.data.vocabularies import Vocabularies, annotated_names
from florence.tasks.detection.batch import Target


@dataclass(frozen=True, kw_only=True)
class Objects:
    """What :class:`florence.tasks.detection.batch.Target` says of one image, before it is a tensor.

    Attributes:
        boxes: float32 ``(N, 4)``, x1 y1 x2 y2 in pixels.
        labels: int64 ``(N,)``.
        crowd: bool ``(N,)``.
        scores: float32 ``(N,)``.
        annotated: int64, the places of the classes that were looked for; None for all.
        attributes: bool ``(N, A)``, or None.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    scores: NDArray[np.float32]
    annotated: NDArray[np.int64] | None = None
    attributes: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[Any], boxes: NDArray[np.float32] | None = None) -> Self:
        """Some of the objects, by number or mask; with other boxes where they are given."""
        return replace(
            self,
            boxes=(self.boxes if boxes is None else boxes)[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            scores=self.scores[rows],
            attributes=None if self.attributes is None else self.attributes[rows],
        )

    def moved(self, x: float, y: float) -> Self:
        """The objects elsewhere."""
        return replace(self, boxes=self.boxes + np.array([x, y, x, y], np.float32))

    def scored(self, factor: float) -> Self:
        """The objects with their scores multiplied."""
        return replace(self, scores=self.scores * np.float32(factor))

    def target(self, classes: int) -> Target:
        """The objects as tensors, among so many classes."""
        annotated = None
        if self.annotated is not None:
            annotated = torch.zeros(classes, dtype=torch.bool)
            annotated[torch.from_numpy(self.annotated)] = True
        return Target(
            boxes=torch.from_numpy(self.boxes),
            labels=torch.from_numpy(self.labels),
            crowd=torch.from_numpy(self.crowd),
            scores=torch.from_numpy(self.scores),
            annotated=annotated,
            attributes=None if self.attributes is None else torch.from_numpy(self.attributes),
        )


def joined(parts: Sequence[Objects]) -> Objects:
    """The objects of several images that became one.

    Only classes that were looked for in all of them were looked for in what they became.
    """
    known = [part.annotated for part in parts if part.annotated is not None]
    annotated = known[0] if known else None
    for other in known[1:]:
        annotated = np.intersect1d(annotated, other)  # type: ignore[arg-type]
    attributes = [part.attributes for part in parts]
    return Objects(
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        crowd=np.concatenate([part.crowd for part in parts]),
        scores=np.concatenate([part.scores for part in parts]),
        annotated=annotated,
        attributes=None
        if any(each is None for each in attributes)
        else np.concatenate([each for each in attributes if each is not None]),
    )


class ObjectReader:
    """Makes objects of records, for one list of classes.

    Args:
        classes: the names that a detector tells apart, in its order; boxes of others are left out.
        vocabularies: for which names the data was searched; without them, for all.
        attributes: the names of attributes; without them none are read.
        class_agnostic: whether all boxes are of one class, "object", whatever their names.
    """

    def __init__(
        self,
        classes: Sequence[str],
        vocabularies: Vocabularies | None = None,
        *,
        attributes: Sequence[str] | None = None,
        class_agnostic: bool = False,
    ) -> None:
        self.classes = tuple(classes)
        self.class_agnostic = class_agnostic
        self._numbers = {name: number for number, name in enumerate(self.classes)}
        self._vocabularies: Vocabularies = vocabularies or {}
        self._attributes: Mapping[str, int] | None = None
        if attributes is not None:
            self._attributes = {name: number for number, name in enumerate(attributes)}
        self._whole = lru_cache(maxsize=64)(self._places)

    @property
    def class_count(self) -> int:
        """How many classes the objects are of."""
        return 1 if self.class_agnostic else len(self.classes)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_whole"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._whole = lru_cache(maxsize=64)(self._places)

    def objects(self, image: AnnotatedImage) -> Objects:
        """The objects of a record, in the stored image's pixels."""
        used = [box for box in image.boxes if self.class_agnostic or box.category in self._numbers]
        boxes = np.array([box.bbox for box in used], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [0 if self.class_agnostic else self._numbers[box.category] for box in used]
        return Objects(
            boxes=boxes.astype(np.float32),
            labels=np.array(labels, np.int64),
            crowd=np.array([box.crowd for box in used], np.bool_),
            scores=np.array([box.score for box in used], np.float32),
            annotated=self._annotated(image),
            attributes=self._said([box.attributes for box in used]),
        )

    def _annotated(self, image: AnnotatedImage) -> NDArray[np.int64] | None:
        if self.class_agnostic:
            return None
        names = annotated_names(image, self._vocabularies)
        return None if names is None else self._whole(names)

    def _places(self, names: frozenset[str]) -> NDArray[np.int64] | None:
        """Where names stand in the list of classes; None when it holds no other."""
        places = sorted(self._numbers[name] for name in names if name in self._numbers)
        return None if len(places) == len(self.classes) else np.array(places, np.int64)

    def _said(self, said: Sequence[tuple[str, ...] | None]) -> NDArray[np.bool_] | None:
        if self._attributes is None:
            return None
        found = np.zeros((len(said), len(self._attributes)), np.bool_)
        for row, names in enumerate(said):
            found[row, [self._attributes[n] for n in names or () if n in self._attributes]] = True
        return found
