"""Several records of one image as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from florence.data.boxes import XYWH, AnnotatedImage, Annotation
from florence.data.flod.names import NameTable
from florence.data.vocabularies import Vocabulary

SAME = 0.9
"""Intersection over union above which two boxes of one name are one."""


def renamed(image: AnnotatedImage, source: str, names: NameTable) -> AnnotatedImage:
    """A record as of a source, with canonical names."""

    def all_of(listed: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names.canonical(source, name) for name in listed))

    boxes = (replace(b, category=names.canonical(source, b.category)) for b in image.boxes)
    return replace(
        image,
        source=source,
        boxes=tuple(boxes),
        negatives=None if image.negatives is None else all_of(image.negatives),
        not_exhaustive=all_of(image.not_exhaustive),
    )


def renamed_vocabulary(vocabulary: Vocabulary, source: str, names: NameTable) -> Vocabulary:
    """A vocabulary with canonical names; of those that become one, the first one's frequency."""
    frequencies = vocabulary.frequencies or ("",) * len(vocabulary.names)
    merged: dict[str, str] = {}
    for name, frequency in zip(vocabulary.names, frequencies, strict=True):
        merged.setdefault(names.canonical(source, name), frequency)
    return Vocabulary(
        tuple(merged),
        federated=vocabulary.federated,
        frequencies=tuple(merged.values()) if vocabulary.frequencies is not None else None,
    )


def merged(images: Sequence[AnnotatedImage]) -> AnnotatedImage:
    """What several data sets say of one image.

    A box is left out when one before it has its name and place; a person's box stands before a
    detector's, else the order is that of the data sets. What one of them found is no negative.
    """
    first = images[0]
    if len(images) == 1:
        return first
    ordered = sorted((b for image in images for b in image.boxes), key=lambda b: b.score < 1)
    boxes: list[Annotation] = []
    for box in ordered:
        if not any(same(box, other) for other in boxes):
            boxes.append(box)
    found = {box.category for box in boxes}
    lists = [image.negatives for image in images if image.negatives is not None]
    negatives = dict.fromkeys(name for listed in lists for name in listed if name not in found)
    return replace(
        first,
        source="+".join(dict.fromkeys(s for image in images for s in image.sources)),
        boxes=tuple(boxes),
        negatives=tuple(negatives) if lists else None,
        not_exhaustive=tuple(dict.fromkeys(n for image in images for n in image.not_exhaustive)),
    )


def same(one: Annotation, other: Annotation) -> bool:
    """Whether two boxes are of one object."""
    return (
        one.category == other.category
        and one.crowd == other.crowd
        and intersection_over_union(one.bbox, other.bbox) > SAME
    )


def intersection_over_union(one: XYWH, other: XYWH) -> float:
    """Of two boxes with area."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)
