from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from florence.data.digit_chalk import SIDE, TIMES, write_chalk
from florence.data.digits import TRAIN_COUNT, WORDS
from florence.data.indexing import check_data
from florence.data.shards import Need, Sample, ShardSet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chalk")
    counts = write_chalk(str(folder))
    held_out = len(load_digits().target) - TRAIN_COUNT
    assert counts == {"train": TIMES["train"] * TRAIN_COUNT, "test": held_out}
    return folder


def samples(folder: Path, split: str) -> list[Sample]:
    shards = ShardSet.open(str(folder / split), need=Need.TEXT)
    return [shards.read(i) for i in range(len(shards))]


def grey(sample: Sample) -> np.ndarray:
    image = Image.open(io.BytesIO(sample.media_bytes))
    assert image.size == (SIDE, SIDE)
    return np.asarray(image.convert("L"), dtype=np.float64)


def test_they_are_whole_shards_whose_captions_name_the_digit(folder: Path) -> None:
    assert not check_data(str(folder / "train")).problems
    found = samples(folder, "train")
    classes = load_digits().target
    for number, sample in enumerate(found[:: len(found) // 50]):
        assert sample.class_index is not None
        assert WORDS[sample.class_index] in str(sample.text)
        row = number * (len(found) // 50) % TRAIN_COUNT
        assert sample.class_index == classes[row]


def test_they_are_the_same_each_time(folder: Path, tmp_path: Path) -> None:
    write_chalk(str(tmp_path))
    for name in ("train/chalk-000000.tar", "test/chalk-000000.tar"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_digits_stand_anywhere_and_a_template_does_not_find_them(folder: Path) -> None:
    """Ink is light; its centre wanders, and a linear classifier of pixels knows little."""
    train, test = samples(folder, "train")[:TRAIN_COUNT], samples(folder, "test")
    down, across = np.mgrid[:SIDE, :SIDE]
    centres = []
    for sample in train[:100]:
        ink = np.clip(grey(sample) - 170, 0, None)
        centres.append([(ink * axis).sum() / ink.sum() for axis in (down, across)])
    assert np.ptp(centres, axis=0).min() > SIDE / 4
    pixels = [np.stack([grey(s)[::4, ::4].ravel() for s in part]) / 255 for part in (train, test)]
    labels = [[s.class_index for s in part] for part in (train, test)]
    model = LinearSVC(random_state=0).fit(pixels[0], labels[0])
    assert model.score(pixels[1], labels[1]) < 0.5
