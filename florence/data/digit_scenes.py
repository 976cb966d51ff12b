"""Scenes of the scanned digits: several in a picture, of several sizes, on textured backgrounds.

Every scene is a pure function of the scans, its split and its number. Scans of training and test
scenes were written by different people, as those of :mod:`florence.data.digits`.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.digits import TRAIN_COUNT, WORDS, scanned_digits
from florence.data.hashing import mix, permutation, uniforms
from florence.data.indexing import index_data
from florence.data.manifest import CLASSES
from florence.data.ordered_map import map_in_threads
from florence.data.shard_writer import write_shard
from florence.data.vocabularies import NAME, Vocabulary, vocabularies_bytes
from florence.storage import Storage, open_storage

COUNTS = {"train": 4_000, "test": 300}
SOURCE = "digits"
SIZES = ((96, 128), (112, 112), (128, 96))
"""(width, height) of scenes in pixels."""
LEAST_SIDE, MOST_SIDE = 18, 56
"""Of the square that a scan is drawn in, in pixels."""
MOST_DIGITS = 5
SAMPLES_PER_SHARD = 300
_WRITERS = 8
_SEED = 0x5CE9E
_PLACES = 30
_MOST_OVERLAP, _USUAL_OVERLAP = 0.25, 0.02
_INK = 0.3

Pixels = NDArray[np.float64]


@dataclass(frozen=True)
class DigitScene:
    """A scene: the bytes of a JPEG, and what is in it."""

    image: bytes
    record: AnnotatedImage


def write_scenes(
    out: str,
    s3: S3Settings | None = None,
    *,
    coco: bool = False,
    counts: dict[str, int] | None = None,
) -> dict[str, int]:
    """Write the splits ``train`` and ``test`` as shards under a folder or ``s3://`` prefix.

    Args:
        out: where; the shards are ``train/scenes-000000.tar`` and so on.
        coco: also write ``instances_train.json`` and the images that it names, in
            ``images/train/``, as a person's own data would lie there.
        counts: scenes by split; ``COUNTS`` by default.

    Returns:
        The number of scenes by split.
    """
    counts = dict(COUNTS if counts is None else counts)
    root = out.rstrip("/") or "/"
    for split, count in counts.items():
        folder = f"{root}/{split}"
        storage = open_storage(folder, s3)
        made = scenes(split, count)
        coco_images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, start in enumerate(range(0, count, SAMPLES_PER_SHARD)):
            chosen = [next(made) for _ in range(start, min(start + SAMPLES_PER_SHARD, count))]
            write_shard(
                storage,
                f"scenes-{number:06d}.tar",
                (
                    (
                        f"{start + row:06d}",
                        {"jpg": s.image, "json": json.dumps(s.record.wire()).encode()},
                    )
                    for row, s in enumerate(chosen)
                ),
            )
            if coco:
                _write_images(open_storage(f"{root}/images/{split}", s3), chosen)
            for scene in chosen if coco else ():
                coco_images.append(_coco_image(scene.record))
                annotations += _coco_annotations(scene.record, len(annotations) + 1)
        storage.write(NAME, vocabularies_bytes({SOURCE: Vocabulary(WORDS)}))
        storage.write(CLASSES, (json.dumps(WORDS, indent=1) + "\n").encode())
        index_data(folder, s3)
        if coco:
            document = {
                "images": coco_images,
                "annotations": annotations,
                "categories": [{"id": n, "name": word} for n, word in enumerate(WORDS)],
            }
            name = f"instances_{split}.json"
            open_storage(root, s3).write(name, json.dumps(document).encode())
    return counts


def scenes(split: str, count: int) -> Iterator[DigitScene]:
    """The first scenes of a split; every scan of the split is used before one is used again."""
    scans, classes = scanned_digits()
    first, stop = (0, TRAIN_COUNT) if split == "train" else (TRAIN_COUNT, len(scans))
    used = 0
    for number in range(count):
        draw = uniforms(mix(_SEED, first, number))
        wanted = 1 + int(next(draw) * MOST_DIGITS)
        rows = [_scan(first, stop - first, used + i) for i in range(wanted)]
        used += wanted
        yield _scene(number, [(scans[row], int(classes[row])) for row in rows], draw)


def single(scan: Pixels, side: int, seed: int) -> bytes:
    """The JPEG of a square scene of one digit, as large and turned as in scenes, anywhere in it.

    Args:
        scan: the digit's ink, (8, 8) in [0, 1].
        side: of the scene, in pixels; at least ``MOST_SIDE``.
        seed: what size, place, turn, colour and background depend on.
    """
    draw = uniforms(mix(_SEED, seed))
    canvas = _background(side, side, draw)
    ink = _ink(scan, draw)
    x, y = (int(next(draw) * (side - ink.shape[0] + 1)) for _ in range(2))
    _draw(canvas, ink, x, y, draw)
    return _jpeg(canvas)


def _scan(first: int, count: int, place: int) -> int:
    again, inside = divmod(place, count)
    return first + int(permutation(count, mix(_SEED, first, again))[inside])


def _scene(number: int, digits: Sequence[tuple[Pixels, int]], draw: Iterator[float]) -> DigitScene:
    width, height = SIZES[int(next(draw) * len(SIZES))]
    canvas = _background(width, height, draw)
    boxes: list[tuple[int, int, int, int]] = []
    annotations = []
    for scan, digit in digits:
        ink = _ink(scan, draw)
        rows, columns = np.nonzero(ink >= _INK)
        inner = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        place = _place(inner, ink.shape[0], (width, height), boxes, draw)
        if place is None:
            continue
        x, y = place
        _draw(canvas, ink, x, y, draw)
        box = tuple(int(v) for v in (x + inner[0], y + inner[1], x + inner[2], y + inner[3]))
        boxes.append((box[0], box[1], box[2], box[3]))
        bbox = (float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1]))
        annotations.append(Annotation(bbox=bbox, category=WORDS[digit]))
    record = AnnotatedImage(
        image_id=number, width=width, height=height, source=SOURCE, boxes=tuple(annotations)
    )
    return DigitScene(_jpeg(canvas), record)


def _jpeg(canvas: Pixels) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8))
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _background(width: int, height: int, draw: Iterator[float]) -> Pixels:
    """A mottled, striped and grainy surface of one hue: ``(height, width, 3)`` in 0..255."""
    base = np.array([25 + 95 * next(draw) for _ in range(3)])
    random = np.random.Generator(np.random.PCG64(int(next(draw) * 2**53)))
    coarse = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mottled = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    angle, length = math.pi * next(draw), 5 + 20 * next(draw)
    down, across = np.mgrid[:height, :width]
    phase = (across * math.cos(angle) + down * math.sin(angle)) * 2 * math.pi / length
    stripes = np.sin(phase)[..., None] * (4 + 10 * next(draw))
    grain = random.normal(0, 3 + 5 * next(draw), (height, width, 1))
    return np.asarray(base + (mottled.astype(np.float64) - 127.5) * 0.25 + stripes + grain)


def _ink(scan: Pixels, draw: Iterator[float]) -> Pixels:
    """A scan at a random size, slightly turned: how much ink, in [0, 1]."""
    side = round(LEAST_SIDE * (MOST_SIDE / LEAST_SIDE) ** next(draw))
    grey = Image.fromarray(np.rint(scan * 255).astype(np.uint8))
    large = grey.resize((side, side), Image.Resampling.BICUBIC)
    turned = large.rotate(20 * next(draw) - 10, Image.Resampling.BICUBIC)
    # Scans are soft; ink has an edge.
    return np.asarray(np.clip((np.asarray(turned) / 255 - 0.15) / 0.5, 0, 1))


def _place(
    inner: Sequence[int],
    side: int,
    size: tuple[int, int],
    boxes: Sequence[tuple[int, int, int, int]],
    draw: Iterator[float],
) -> tuple[int, int] | None:
    """Where the square of a scan goes; in every fourth try over another digit's edge."""
    for number in range(_PLACES):
        x, y = (int(next(draw) * (length - side + 1)) for length in size)
        box = (x + inner[0], y + inner[1], x + inner[2], y + inner[3])
        most = _MOST_OVERLAP if number % 4 == 3 else _USUAL_OVERLAP
        if all(_overlap(box, other) <= most for other in boxes):
            return x, y
    return None


def _overlap(one: Sequence[int], other: Sequence[int]) -> float:
    """The part of the smaller box that the other covers."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return float(width * height / min(areas))


def _draw(canvas: Pixels, ink: Pixels, x: int, y: int, draw: Iterator[float]) -> None:
    """Draw a digit as coloured chalk would: lighter than what is behind it, as the scans are."""
    side = ink.shape[0]
    behind = canvas[y : y + side, x : x + side]
    colour = np.array([185 + 70 * next(draw) for _ in range(3)])
    behind += ink[..., None] * (colour - behind)


def _write_images(storage: Storage, chosen: Sequence[DigitScene]) -> None:
    """Store the images, several at a time: each waits for the disk or the network alone."""
    for _ in map_in_threads(
        lambda scene: storage.write(_file_name(scene.record), scene.image), chosen, _WRITERS
    ):
        pass


def _file_name(record: AnnotatedImage) -> str:
    return f"{record.image_id:06d}.jpg"


def _coco_image(record: AnnotatedImage) -> dict[str, Any]:
    size = {"width": record.width, "height": record.height}
    return {"id": record.image_id, "file_name": _file_name(record), **size}


def _coco_annotations(record: AnnotatedImage, first: int) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "image_id": record.image_id,
            "category_id": WORDS.index(box.category),
            "bbox": list(box.bbox),
            "area": box.bbox[2] * box.bbox[3],
            "iscrowd": 0,
        }
        for number, box in enumerate(record.boxes, first)
    ]
