"""Boxes as files give them, and what of them can be used once the image's size is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from florence.data.boxes import AnnotatedImage, Annotation


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBox:
    """One box as a file has it.

    Attributes:
        where: which one it is, for messages: ``annotation 17``, ``line 3``.
        bbox: x, y, width, height; any numbers.
        category: name of what is in it.
        fault: what is wrong with it, where reading the file already showed that.
        crowd, score, attributes, area: as in :class:`florence.data.boxes.Annotation`.
    """

    where: str
    bbox: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    category: str = ""
    fault: str | None = None
    crowd: bool = False
    score: float = 1.0
    attributes: tuple[str, ...] | None = None
    area: float | None = None


@dataclass(frozen=True, kw_only=True)
class ImageObjects:
    """The boxes of an image that is yet to be read.

    Attributes:
        image_id: the data set's own.
        source: the vocabulary that was looked for.
        boxes: as the file has them.
        relative: whether they are fractions of the image's width and height.
        size: (width, height) of the image that the boxes were drawn on, where the file says it.
        negatives, not_exhaustive: as in :class:`florence.data.boxes.AnnotatedImage`.
        extra: other fields of the record.
    """

    image_id: int | str
    source: str
    boxes: Sequence[FoundBox]
    relative: bool = False
    size: tuple[int, int] | None = None
    negatives: tuple[str, ...] | None = None
    not_exhaustive: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckedObjects:
    """The record of an image, and the boxes that are left out of it, each in a phrase."""

    record: AnnotatedImage
    broken: tuple[str, ...]


def checked_objects(
    objects: ImageObjects, size: tuple[int, int], stored: tuple[int, int]
) -> CheckedObjects:
    """The boxes of an image that can be used, in its stored pixels.

    Args:
        objects: as the file has them.
        size: (width, height) of the image as it was found.
        stored: as it is stored, which may be smaller.

    Raises:
        ValueError: the file says that the image is of another size.
    """
    if objects.size is not None and objects.size != size:
        raise ValueError(
            f"the image is {size[0]}x{size[1]} pixels and its annotation says "
            f"{objects.size[0]}x{objects.size[1]}: give the image that the boxes were drawn on"
        )
    scale = (stored[0] / size[0], stored[1] / size[1])
    boxes, broken = [], []
    for found in objects.boxes:
        try:
            boxes.append(_checked(found, size, scale, relative=objects.relative))
        except ValueError as error:
            broken.append(f"{found.where} {error}")
    record = AnnotatedImage(
        image_id=objects.image_id,
        width=stored[0],
        height=stored[1],
        source=objects.source,
        boxes=tuple(boxes),
        negatives=objects.negatives,
        not_exhaustive=objects.not_exhaustive,
    )
    return CheckedObjects(record, tuple(broken))


def _checked(
    found: FoundBox, size: tuple[int, int], scale: tuple[float, float], *, relative: bool
) -> Annotation:
    if found.fault is not None:
        raise ValueError(found.fault)
    if not all(map(math.isfinite, found.bbox)):
        raise ValueError("has a number in its box that is not finite: draw it again or remove it")
    if relative:
        x, y, width, height = (value * size[i % 2] for i, value in enumerate(found.bbox))
    else:
        x, y, width, height = found.bbox
    if width < 0 or height < 0:
        raise ValueError(
            f"has swapped corners (width {width:g}, height {height:g}): begin at the upper left"
        )
    if width == 0 or height == 0:
        raise ValueError("has a box of no area: remove it")
    left, top = max(x, 0.0), max(y, 0.0)
    right, bottom = min(x + width, float(size[0])), min(y + height, float(size[1]))
    if right <= left or bottom <= top:
        raise ValueError(
            f"has a box outside the image of {size[0]}x{size[1]} pixels "
            f"({x:g}, {y:g}, {width:g}, {height:g}): check its units, or remove it"
        )
    inside = (left, top) == (x, y) and x + width <= size[0] and y + height <= size[1]
    annotation = Annotation(
        bbox=(x, y, width, height) if inside else (left, top, right - left, bottom - top),
        category=found.category,
        crowd=found.crowd,
        score=found.score,
        attributes=found.attributes,
        area=found.area,
    )
    return annotation if scale == (1.0, 1.0) else _scaled(annotation, scale)


def _scaled(box: Annotation, scale: tuple[float, float]) -> Annotation:
    x, y, width, height = (value * scale[i % 2] for i, value in enumerate(box.bbox))
    area = None if box.area is None else box.area * scale[0] * scale[1]
    return replace(box, bbox=(x, y, width, height), area=area)
