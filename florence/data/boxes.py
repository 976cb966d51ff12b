"""The annotation of an image with boxes: the ``.json`` member of its sample.

.. code-block:: json

   {"image_id": 17, "width": 640, "height": 480, "source": "lvis",
    "boxes": [{"bbox": [10.5, 20, 30, 40], "category": "cat", "iscrowd": 0, "score": 1.0}],
    "negatives": ["dog"], "not_exhaustive": ["cat"]}

Boxes are COCO's: x, y of the upper left corner, width and height, in pixels of the stored image.
Categories are names, which survive that data sets are joined; numbers do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

XYWH = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One box.

    Attributes:
        bbox: x, y, width, height in pixels.
        category: name of what is in it.
        crowd: a region of many objects (COCO ``iscrowd``, OpenImages ``IsGroupOf``), or of one that
            does not count (VOC ``difficult``).
        score: 1 for a person's box, a detector's score in [0, 1] for its own.
        attributes: what is said of the object; None where nobody looked.
        area: of the object, in pixels, where it is known and not that of the box.
    """

    bbox: XYWH
    category: str
    crowd: bool = False
    score: float = 1.0
    attributes: tuple[str, ...] | None = None
    area: float | None = None

    def wire(self) -> dict[str, Any]:
        """The box as JSON values."""
        values: dict[str, Any] = {
            "bbox": list(self.bbox),
            "category": self.category,
            "iscrowd": int(self.crowd),
            "score": self.score,
        }
        if self.attributes is not None:
            values["attributes"] = list(self.attributes)
        if self.area is not None:
            values["area"] = self.area
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedImage:
    """What is known of one image.

    Attributes:
        image_id: the data set's own, by which results are told.
        width, height: of the stored image in pixels.
        source: whose vocabulary was looked for; ``coco+lvis`` where two data sets share the image.
        boxes: the objects.
        negatives: of a federated vocabulary, the names that were looked for and are not there.
        not_exhaustive: names of which not every object has a box.
    """

    image_id: int | str
    width: int
    height: int
    source: str
    boxes: tuple[Annotation, ...]
    negatives: tuple[str, ...] | None = None
    not_exhaustive: tuple[str, ...] = ()

    @property
    def sources(self) -> tuple[str, ...]:
        """The data sets that annotated the image."""
        return tuple(self.source.split("+"))

    def wire(self) -> dict[str, Any]:
        """The record as JSON values."""
        values: dict[str, Any] = {
            "image_id": self.image_id,
            "width": self.width,
            "height": self.height,
            "source": self.source,
            "boxes": [box.wire() for box in self.boxes],
        }
        if self.negatives is not None:
            values["negatives"] = list(self.negatives)
        if self.not_exhaustive:
            values["not_exhaustive"] = list(self.not_exhaustive)
        return values


def annotated_image(meta: Mapping[str, Any]) -> AnnotatedImage:
    """The record that a sample's JSON member holds.

    Raises:
        ValueError: it is none; says which field is missing or wrong.
    """
    if "boxes" not in meta:
        raise ValueError("its json has no list 'boxes': import the data with its boxes")
    try:
        return AnnotatedImage(
            image_id=_id(meta["image_id"]),
            width=_size(meta["width"]),
            height=_size(meta["height"]),
            source=str(meta["source"]),
            boxes=tuple(_annotation(number, box) for number, box in enumerate(meta["boxes"])),
            negatives=_names(meta["negatives"]) if "negatives" in meta else None,
            not_exhaustive=_names(meta.get("not_exhaustive", ())),
        )
    except KeyError as error:
        raise ValueError(f"its json has boxes and no field {error}") from error
    except TypeError as error:
        raise ValueError(f"its json is no record of boxes: {error}") from error


def _annotation(number: int, box: Any) -> Annotation:
    where = f"boxes[{number}]"
    if not isinstance(box, Mapping) or not isinstance(box.get("category"), str):
        raise ValueError(f"{where} has no category")
    x, y, width, height = xywh(box.get("bbox"), where)
    if width <= 0 or height <= 0:
        raise ValueError(f"{where} has no area")
    score = box.get("score", 1.0)
    if not _is_number(score) or not 0 <= score <= 1:
        raise ValueError(f"{where}.score is {score!r}: a score lies between 0 and 1")
    attributes, area = box.get("attributes"), box.get("area")
    return Annotation(
        bbox=(x, y, width, height),
        category=box["category"],
        crowd=bool(box.get("iscrowd", 0)),
        score=float(score),
        attributes=None if attributes is None else _names(attributes),
        area=float(area) if area is not None and _is_number(area) else None,
    )


def xywh(value: Any, where: str) -> XYWH:
    """Four finite numbers. Raises :class:`ValueError` for anything else."""
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise ValueError(f"{where}.bbox is no list of four numbers")
    if not all(map(_is_number, value)):
        raise ValueError(f"{where}.bbox holds something else than finite numbers")
    x, y, width, height = map(float, value)
    return x, y, width, height


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _id(value: Any) -> int | str:
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise ValueError(f"image_id is {value!r}: an id is a number or a text")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"width or height is {value!r}: they are pixels")
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{value!r:.60} is no list of names")
    return tuple(value)
