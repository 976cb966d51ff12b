"""Pseudo boxes: a trained detector labels images for the next one (self-training).

Source: Zoph et al., arXiv 2006.06882, as the paper has it for ImageNet-22K. Scores are
kept: a box's part of the loss is multiplied by its.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from florence.config.storage import S3Settings
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.images import decode
from florence.data.importing.once import shards_of
from florence.data.importing.pseudo import PseudoLabels
from florence.data.importing.rows import BrokenRow, Row, Source, fingerprint
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.data.vocabularies import Vocabulary
from florence.errors import ConfigurationError
from florence.loading import LoadedModel, load
from florence.storage import open_storage
from florence.tasks.detection.shape import DETECTION, ZERO_SHOT_DETECTION
from florence.tasks.task import Predictor


@dataclass(frozen=True)
class _Finder:
    """A detector that one thread at a time asks."""

    predictor: Predictor
    settings: PseudoLabels
    lock: Lock = field(default_factory=Lock)

    def record(self, image_id: str, data: bytes) -> dict[str, Any]:
        """The record of an image. Raises ``BrokenImageError`` when it cannot be decoded."""
        image = decode(data)
        parameters: dict[str, Any] = {"threshold": self.settings.threshold}
        if self.settings.labels:
            parameters["labels"] = list(self.settings.labels)
        with self.lock:
            (answer,) = self.predictor.predict([{"image": image}], parameters)
        boxes = [_annotation(found) for found in answer["boxes"]]
        record = AnnotatedImage(
            image_id=image_id,
            width=image.width,
            height=image.height,
            source=self.settings.name,
            boxes=tuple(box for box in boxes if min(box.bbox[2:]) > 0),
        )
        return {**record.wire(), "pseudo": True, "sha256": hashlib.sha256(data).hexdigest()}


@dataclass(frozen=True)
class _Found:
    """The boxes of one image as a member that is made when it is read.

    So an import that goes on after a kill looks at no image a second time.
    """

    finder: _Finder
    image_id: str
    data: bytes

    def read(self) -> bytes:
        """The record as JSON."""
        return json.dumps(self.finder.record(self.image_id, self.data)).encode()


def open_pseudo_labels(
    sources: Sequence[str], settings: PseudoLabels, s3: S3Settings | None
) -> Source:
    """Open shards of images; their texts and classes are kept, boxes of their own are not.

    Raises:
        ConfigurationError: the model is no detector, or a zero-shot one was not told what to find.
        DataError: there is no model, or no image.
    """
    model = load(settings.detector, s3=s3)
    names = _names(model, settings)
    finder = _Finder(model.predictor, settings)
    sets = [ShardSet.open(shards_of(uri, s3=s3), s3, need=Need.IMAGE) for uri in sources]

    def rows() -> Iterator[Row | BrokenRow]:
        for shards in sets:
            for i in range(len(shards)):
                yield _row(shards, i, finder)

    stored = open_storage(settings.detector, s3).list()
    return Source(
        name=settings.name,
        identity=[[shards.fingerprint for shards in sets], fingerprint(stored)],
        rows=rows,
        vocabularies=lambda: {settings.name: Vocabulary(names)},
    )


def _row(shards: ShardSet, i: int, finder: _Finder) -> Row | BrokenRow:
    where = f"{shards.shard_of(i)}:{shards.key(i)}"
    try:
        sample = shards.read(i)
    except BrokenSampleError as error:
        return BrokenRow(where, f"{error}: mend or replace the shard")
    return Row(
        where=where,
        image=sample.image_bytes,
        text=sample.text or None,
        class_index=sample.class_index,
        files={"json": _Found(finder, sample.key, sample.image_bytes)},
        meta=None,
    )


def _names(model: LoadedModel, settings: PseudoLabels) -> tuple[str, ...]:
    card = model.card
    if card.task == DETECTION:
        if settings.labels:
            raise ConfigurationError(
                f"labels: {settings.detector} finds what it was trained to find: leave them out"
            )
        return card.labels
    if card.task == ZERO_SHOT_DETECTION:
        if not settings.labels:
            raise ConfigurationError(
                f"labels: {settings.detector} finds anything: name what to find, --labels cat"
            )
        return settings.labels
    raise ConfigurationError(f"{settings.detector} is a {card.task} model: give a detector")


def _annotation(found: Mapping[str, Any]) -> Annotation:
    left, top, right, bottom = found["box"]
    return Annotation(
        bbox=(left, top, right - left, bottom - top),
        category=found["label"],
        score=round(float(found["score"]), 4),
    )
