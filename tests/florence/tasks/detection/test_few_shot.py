from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config import Loader
from florence.data.digit_scenes import write_scenes
from florence.data.digits import WORDS
from florence.data.shards import Need, ShardSet
from florence.data.subset import ShardSubset
from florence.data.vocabularies import Vocabulary
from florence.errors import DataError
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.few_shot import SEEDS, choose_images, few_images
from florence.tasks.detection.objects import ObjectReader
from florence.tasks.detection.roboflow import ROBOFLOW, set_of
from florence.tasks.detection.stream import detection_stream

images_of = st.lists(st.lists(st.sampled_from("abc"), max_size=4), min_size=1, max_size=30)


@given(images_of, st.integers(1, 3), st.integers(0, 999))
def test_every_class_has_its_boxes_and_no_image_is_taken_in_vain(
    images: list[list[str]], shots: int, seed: int
) -> None:
    counts = Counter(name for names in images for name in names)
    classes = [name for name in "ab" if counts[name]]
    if any(counts[name] < shots for name in classes):
        with pytest.raises(DataError, match="fewer than"):
            choose_images(images, classes, shots, seed)
        return
    chosen = choose_images(images, classes, shots, seed)
    assert len(set(chosen)) == len(chosen)
    found: Counter[str] = Counter()
    for number in chosen:
        # When it was taken one of its classes still lacked boxes.
        assert any(found[name] < shots for name in images[number] if name in classes)
        found += Counter(images[number])
    assert all(found[name] >= shots for name in classes)
    assert choose_images(images, classes, shots, seed) == chosen


def test_seeds_choose_different_images() -> None:
    images = [["a", "b"] for _ in range(100)]
    assert len({tuple(choose_images(images, "ab", 5, seed)) for seed in SEEDS}) == 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> ShardSet:
    folder: Path = tmp_path_factory.mktemp("scenes")
    write_scenes(str(folder), counts={"train": 60})
    return ShardSet.open(str(folder / "train"), need=Need.IMAGE)


def test_the_chosen_images_are_a_set_of_their_own(shards: ShardSet) -> None:
    few = few_images(shards, WORDS, 2, seed=3)
    assert 4 < len(few) < 60
    counts = Counter(box["category"] for i in range(len(few)) for box in few.read_meta(i)["boxes"])
    assert min(counts[name] for name in WORDS) >= 2
    assert few.fingerprint != shards.fingerprint
    assert few.fingerprint == few_images(shards, WORDS, 2, seed=3).fingerprint
    assert few.fingerprint != few_images(shards, WORDS, 2, seed=30).fingerprint
    again = pickle.loads(pickle.dumps(few))
    for i in range(len(few)):
        assert again.read(i) == few.read(i)
        assert json.loads(few.read(i).meta_bytes) == few.read_meta(i)
    with pytest.raises(IndexError):
        few.read(len(few))
    with pytest.raises(DataError, match=rf"{shards.uri}: class 'ten' has 0 boxes"):
        few_images(shards, ("ten",), 1, seed=3)


def test_a_stream_of_the_chosen_images_shows_nothing_else(shards: ShardSet) -> None:
    few = ShardSubset(shards, [7, 3, 50])
    stream = detection_stream(
        few,
        ObjectReader(WORDS, {"digits": Vocabulary(WORDS)}),
        DetectionAugmentation(short_side_min=32, short_side_max=32, max_side=64),
        seed=0,
        batch_size=3,
        loader=Loader(workers=1),
    )
    assert len(stream) == 3
    with stream.batches(rank=0, size=1, start=0, stop=4) as batches:
        keys = [sorted(batch.keys) for batch in batches]
    assert keys == [sorted(shards.key(i) for i in (7, 3, 50))] * 4


def test_the_benchmarks_are_the_papers() -> None:
    counts = {name: (known.images, len(known.classes)) for name, known in ROBOFLOW.items()}
    assert counts == {
        "aquarium": (638, 7), "bccd": (364, 3), "chess-pieces": (292, 12),
        "mask-wearing": (149, 2), "oxford-pets": (3680, 37), "packages": (26, 1),
        "pistols": (2986, 1), "pklot": (12416, 2), "pothole": (665, 1), "thermal": (203, 2),
        "wildfire-smoke": (737, 1),
    }  # fmt: skip
    better = [name for name, known in ROBOFLOW.items() if known.zero_shot > known.five_shot]
    assert better == [
        "aquarium", "oxford-pets", "packages", "pistols", "pklot", "pothole", "wildfire-smoke",
    ]  # fmt: skip


def test_an_export_is_recognised_by_its_classes() -> None:
    chess = ROBOFLOW["chess-pieces"]
    assert set_of([" ", *(name.replace(" ", "-") for name in chess.classes)]) is chess
    assert set_of(["Dog", "person"]) is ROBOFLOW["thermal"]
    assert set_of(["cat"]) is None
