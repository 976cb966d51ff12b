from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from florence.data.boxes import annotated_image
from florence.data.builtin import resolve
from florence.data.digit_scenes import COUNTS, MOST_DIGITS, DigitScene, scenes, write_scenes
from florence.data.digits import TRAIN_COUNT, WORDS
from florence.data.importing.importer import import_data
from florence.data.importing.registry import import_format
from florence.data.indexing import check_data
from florence.data.shards import Need, ShardSet
from florence.data.vocabularies import Vocabulary, read_vocabularies
from florence.storage import open_storage


@pytest.fixture(scope="module")
def training() -> list[DigitScene]:
    return list(scenes("train", 60))


def test_scenes_are_a_function_of_split_and_number(training: list[DigitScene]) -> None:
    assert [s.image for s in scenes("train", 3)] == [s.image for s in training[:3]]
    assert next(scenes("test", 1)).image != training[0].image


def test_scenes_have_several_digits_of_several_sizes_some_of_them_overlapping(
    training: list[DigitScene],
) -> None:
    counts = Counter(len(s.record.boxes) for s in training)
    assert set(counts) >= {1, 2, 3, 4}
    assert max(counts) <= MOST_DIGITS
    sides = [max(b.bbox[2:]) for s in training for b in s.record.boxes]
    assert min(sides) < 20
    assert max(sides) > 40
    overlapping = 0
    for scene in training:
        image = Image.open(io.BytesIO(scene.image))
        assert image.size == (scene.record.width, scene.record.height)
        boxes = np.array([b.bbox for b in scene.record.boxes])
        corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        assert (corners >= 0).all()
        assert (corners[:, [2, 3]] <= image.size).all()
        low = np.maximum(corners[:, None, :2], corners[None, :, :2])
        high = np.minimum(corners[:, None, 2:], corners[None, :, 2:])
        overlapping += ((high - low).min(axis=2) > 0).sum() > len(boxes)
    assert 3 < overlapping < 50


def test_the_ink_in_a_box_is_the_digit(training: list[DigitScene]) -> None:
    pixels, classes = load_digits(return_X_y=True)
    means = np.stack([pixels[classes == digit].mean(axis=0) for digit in range(10)])
    right = total = 0
    for scene in training:
        grey = Image.open(io.BytesIO(scene.image)).convert("L")
        for box in scene.record.boxes:
            if max(box.bbox[2:]) < 30:
                continue
            x, y, width, height = box.bbox
            middle, side = x + width / 2, height * 1.1
            region = (middle - side / 2, y - side * 0.05, middle + side / 2, y + side * 0.95)
            small = np.asarray(grey.crop(tuple(map(round, region))).resize((8, 8)), float).ravel()
            scores = [abs(np.corrcoef(small, mean)[0, 1]) for mean in means]
            right += int(np.argmax(scores)) == WORDS.index(box.category)
            total += 1
    assert total > 30
    assert right / total > 0.5  # of ten classes, by the mean of each alone


def test_every_scan_of_its_own_writers_is_used_once_before_one_comes_again(monkeypatch) -> None:
    from florence.data import digit_scenes

    for split, (first, stop) in {"train": (0, TRAIN_COUNT), "test": (TRAIN_COUNT, 1797)}.items():
        count = stop - first
        found = [digit_scenes._scan(first, count, place) for place in range(2 * count)]
        assert sorted(found[:count]) == list(range(first, stop)), split
        assert sorted(found[count:]) == list(range(first, stop)), split
        assert found[:count] != found[count:]


def test_shards_and_cocos_json_hold_the_same_boxes(tmp_path: Path) -> None:
    counts = {"train": 7, "test": 3}
    assert write_scenes(str(tmp_path / "a"), coco=True, counts=counts) == counts
    for split, count in counts.items():
        assert not check_data(str(tmp_path / "a" / split)).problems
        shards = ShardSet.open(str(tmp_path / "a" / split), need=Need.IMAGE)
        assert (len(shards), shards.class_names) == (count, WORDS)
        assert read_vocabularies(shards.storage) == {"digits": Vocabulary(WORDS)}
        source = tmp_path / "a" / f"instances_{split}.json"
        kind = import_format("coco")
        settings = kind.settings(images=str(tmp_path / "a/images" / split), strict=True)
        out = tmp_path / split
        import_data(kind, [str(source)], str(out), settings)
        again = ShardSet.open(str(out), need=Need.IMAGE)
        for i in range(count):
            one, other = annotated_image(shards.read(i).meta), annotated_image(again.read(i).meta)
            assert [(b.bbox, b.category) for b in one.boxes] == [
                (b.bbox, b.category) for b in other.boxes
            ]
            assert shards.read(i).image_bytes == again.read(i).image_bytes
    assert read_vocabularies(open_storage(str(out))) == {"coco": Vocabulary(WORDS)}
    assert json.loads(source.read_text())["categories"][3] == {"id": 3, "name": "three"}


def test_they_are_built_in(tmp_path: Path, monkeypatch) -> None:
    from florence.data import digit_scenes

    monkeypatch.setattr(digit_scenes, "COUNTS", {"train": 4, "test": 2})
    folder = resolve("builtin:digits-scenes/test", tmp_path)
    assert len(ShardSet.open(folder, need=Need.IMAGE)) == 2
    assert COUNTS["train"] > 4
