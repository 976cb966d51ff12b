from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from florence.config import Loader
from florence.data.boxes import AnnotatedImage, Annotation
from florence.data.indexing import index_data
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import Vocabulary
from florence.errors import DataError
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.batch import DetectionBatch
from florence.tasks.detection.objects import ObjectReader
from florence.tasks.detection.stream import detection_stream, held_out_batches
from tests.florence.data.making import write_samples

CLASSES = ("cat", "dog")
COUNT = 10


def record(number: int, width: int, height: int) -> AnnotatedImage:
    random = np.random.default_rng(number)
    boxes = []
    for _ in range(number % 4):
        x, y = random.uniform(0, width - 12), random.uniform(0, height - 12)
        boxes.append(
            Annotation(
                bbox=(x, y, 10.5, 11.0),
                category=("cat", "dog", "owl")[random.integers(3)],
                crowd=bool(random.integers(2)),
                attributes=("red",),
            )
        )
    return AnnotatedImage(
        image_id=f"i{number}",
        width=width,
        height=height,
        source="coco",
        boxes=tuple(boxes),
    )


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    folder: Path = tmp_path_factory.mktemp("boxes")
    samples = []
    for number in range(COUNT):
        width, height = 40 + number, 50 - number
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        meta = json.dumps(record(number, width, height).wire()).encode()
        samples.append((f"{number:03d}", {"png": buffer.getvalue(), "json": meta}))
    write_samples(folder / "a.tar", samples[:6])
    write_samples(folder / "b.tar", samples[6:])
    index_data(str(folder))
    return ShardSet.open(str(folder), need=Need.IMAGE)


def reader(**options) -> ObjectReader:
    return ObjectReader(CLASSES, {"coco": Vocabulary(("cat", "dog", "owl"))}, **options)


ALL = DetectionAugmentation(
    short_side_min=30, short_side_max=50, max_side=64, mosaic=0.5, mixup=0.5, copy_paste=0.5
)


def batches(
    shards: ShardSet,
    *,
    workers: int = 0,
    rank: int = 0,
    size: int = 1,
    start: int = 0,
    stop: int = 4,
) -> list[DetectionBatch]:
    stream = detection_stream(
        shards, reader(), ALL, seed=3, batch_size=4, loader=Loader(workers=workers)
    )
    with stream.batches(rank=rank, size=size, start=start, stop=stop) as found:
        return list(found)


def rows(found: list[DetectionBatch]) -> list[tuple[str, bytes, bytes, bytes]]:
    return [
        (
            key,
            image.numpy().tobytes(),
            target.boxes.numpy().tobytes(),
            target.labels.numpy().tobytes(),
        )
        for batch in found
        for key, image, target in zip(batch.keys, batch.images, batch.targets, strict=True)
    ]


def test_nothing_depends_on_workers_ranks_or_where_a_run_began(shards: ShardSet) -> None:
    whole = rows(batches(shards))
    assert len(whole) == 16
    assert rows(batches(shards, workers=2)) == whole
    assert rows(batches(shards, start=2)) == whole[8:]
    halves = [batches(shards, rank=rank, size=2, workers=rank) for rank in range(2)]
    assert [row for pair in zip(*halves, strict=True) for row in rows(list(pair))] == whole


def test_epochs_and_samples_are_drawn_differently(shards: ShardSet) -> None:
    found = rows(batches(shards, stop=10))  # 40 rows of 10 images
    by_key: dict[str, set[bytes]] = {}
    for key, pixels, _, _ in found:
        by_key.setdefault(key, set()).add(pixels)
    assert len(by_key) == COUNT
    assert all(len(views) == 4 for views in by_key.values())


def test_targets_have_the_classes_of_the_list(shards: ShardSet) -> None:
    for batch in batches(shards, stop=5):
        for image, target in zip(batch.images, batch.targets, strict=True):
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
            assert target.boxes.shape == (len(target), 4)
            assert ((target.labels >= 0) & (target.labels < 2)).all()
            assert target.annotated is None  # both classes were looked for


def test_held_out_images_come_once_in_order_with_what_is_known(shards: ShardSet) -> None:
    options = {"short_side": 32, "max_side": 40, "batch_size": 3}
    whole = list(held_out_batches(shards, reader(attributes=["red"]), **options))
    found = [
        (r, i, t) for b in whole for r, i, t in zip(b.records, b.images, b.targets, strict=True)
    ]
    assert [r.image_id for r, _, _ in found] == [f"i{n}" for n in range(COUNT)]
    for image, pixels, target in found:
        height, width = pixels.shape[1:]
        assert min(height, width) == 32 or max(height, width) == 40
        expected = [
            (b.bbox[0], b.bbox[1], b.bbox[0] + b.bbox[2], b.bbox[1] + b.bbox[3])
            for b in image.boxes
            if b.category in CLASSES
        ]
        scale = torch.tensor([width / image.width, height / image.height] * 2)
        torch.testing.assert_close(
            target.boxes, torch.tensor(expected).reshape(-1, 4) * scale, atol=1e-3, rtol=1e-5
        )
        assert target.attributes is not None
        assert target.attributes.all()
    parts = [
        list(held_out_batches(shards, reader(), rank=rank, size=3, workers=1, **options))
        for rank in range(3)
    ]
    ids = [[r.image_id for b in part for r in b.records] for part in parts]
    assert ids == [[f"i{n}" for n in range(rank, COUNT, 3)] for rank in range(3)]


def test_a_class_agnostic_reader_has_one_class(shards: ShardSet) -> None:
    (batch,) = held_out_batches(
        shards, reader(class_agnostic=True), short_side=32, max_side=40, batch_size=COUNT
    )
    for image, target in zip(batch.records, batch.targets, strict=True):
        assert len(target) == len(image.boxes)
        assert target.labels.eq(0).all()
        assert target.annotated is None


def test_a_sample_without_boxes_is_a_broken_one(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    good = json.dumps(record(0, 40, 40).wire()).encode()
    samples = [("0", {"png": buffer.getvalue(), "json": b'{"caption": "x"}'})]
    samples += [(str(n), {"png": buffer.getvalue(), "json": good}) for n in range(1, 4)]
    write_samples(tmp_path / "a.tar", samples)
    shards = ShardSet.open(str(tmp_path), need=Need.IMAGE)
    (batch,) = batches(shards, stop=1)
    (broken,) = batch.broken
    assert (broken.shard, broken.key) == ("a.tar", "0")
    assert "no list 'boxes'" in broken.reason
    with pytest.raises(DataError, match=r"a.tar:0: its json has no list 'boxes'"):
        list(held_out_batches(shards, reader(), short_side=32, max_side=40, batch_size=2))
