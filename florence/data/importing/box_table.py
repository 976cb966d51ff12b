"""Millions of boxes in a few arrays: some 70 bytes each, where Python's objects take a thousand."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.data.boxes import xywh
from florence.data.importing.objects import FoundBox

NO_CATEGORY = -1


class BoxTable:
    """The boxes of a data set in any order, given back image by image.

    Args:
        kind: what a box is called in messages: ``annotation``.
    """

    def __init__(self, kind: str = "annotation") -> None:
        self._kind = kind
        self._image, self._id = array("q"), array("q")
        self._category = array("i")
        self._numbers = array("d")  # x, y, width, height, score, area or NaN
        self._crowd = array("b")
        self._faults: dict[int, str] = {}
        self._names: dict[int, str] = {}  # ids that are no numbers
        self._attributes: dict[int, tuple[str, ...]] = {}
        self._sorted: tuple[NDArray[Any], NDArray[Any]] | None = None

    def __len__(self) -> int:
        return len(self._image)

    def add(
        self,
        image: int,
        category: int,
        bbox: Any,
        *,
        id: Any = None,  # noqa: A002 (the file's own word)
        crowd: bool = False,
        score: float = 1.0,
        area: Any = None,
        attributes: tuple[str, ...] | None = None,
        fault: str | None = None,
    ) -> None:
        """Append a box of an image, both by number; ``bbox`` may be anything.

        ``fault`` says what is wrong with it, where that is known already.
        """
        row = len(self._image)
        numbers = (0.0, 0.0, 0.0, 0.0)
        if fault is None:
            try:
                numbers = xywh(bbox, "it")
            except ValueError as error:
                fault = f"has no box: {str(error).removeprefix('it.')}: give [x, y, width, height]"
        if fault is not None:
            self._faults[row] = fault
        if attributes is not None:
            self._attributes[row] = attributes
        self._image.append(image)
        self._category.append(category)
        self._crowd.append(bool(crowd))
        known = isinstance(area, (int, float)) and not isinstance(area, bool)
        self._numbers.extend((*numbers, float(score), float(area) if known else float("nan")))
        if isinstance(id, int) and -(1 << 62) < id < 1 << 62:
            self._id.append(id)
        else:
            self._id.append(-(1 << 62) - row)
            if id is not None:
                self._names[row] = str(id)

    def mark_repeated_ids(self) -> None:
        """Let every box whose id an earlier one has be a fault."""
        ids = np.frombuffer(self._id, np.int64)
        order = np.argsort(ids, kind="stable")
        repeated = order[1:][ids[order][1:] == ids[order][:-1]]
        for row in repeated.tolist():
            self._faults.setdefault(
                row, "has the id of another one: give each its own, or remove the copy"
            )

    def of(self, image: int, categories: Sequence[str]) -> list[FoundBox]:
        """The boxes of an image in the order in which they were added."""
        if self._sorted is None:
            images = np.frombuffer(self._image, np.int64)
            order = np.argsort(images, kind="stable")
            self._sorted = order, images[order]
        order, images = self._sorted
        start, stop = np.searchsorted(images, [image, image + 1])
        return [self._found(row, categories) for row in order[start:stop].tolist()]

    def _found(self, row: int, categories: Sequence[str]) -> FoundBox:
        x, y, width, height, score, area = self._numbers[6 * row : 6 * row + 6]
        category = self._category[row]
        return FoundBox(
            where=f"{self._kind} {self._label(row)}",
            bbox=(x, y, width, height),
            category=categories[category] if category != NO_CATEGORY else "",
            fault=self._faults.get(row),
            crowd=bool(self._crowd[row]),
            score=score,
            attributes=self._attributes.get(row),
            area=None if area != area else area,
        )

    def _label(self, row: int) -> str:
        if row in self._names:
            return self._names[row]
        number = self._id[row]
        return f"number {row + 1}" if number <= -(1 << 62) else str(number)
