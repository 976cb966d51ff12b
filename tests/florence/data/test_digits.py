"""The built-in digits: shards as any user's, made once, also when processes race."""

from __future__ import annotations

import io
from collections import Counter
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from florence.data.builtin import resolve
from florence.data.digits import TRAIN_COUNT, WORDS, caption, write_digits
from florence.data.indexing import check_data
from florence.data.shards import Need, ShardSet
from florence.errors import ConfigurationError
from florence.text.normalisation import word_count


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    assert write_digits(str(folder)) == {"train": 1400, "test": 397}
    return folder


def test_every_scan_is_there_in_the_writers_order(digits: Path) -> None:
    pixels, classes = load_digits(return_X_y=True)
    index = 0
    for split, count in (("train", 1400), ("test", 397)):
        assert not check_data(str(digits / split)).problems
        shards = ShardSet.open(str(digits / split), need=Need.CLASS)
        assert len(shards) == count
        for i in range(count):
            sample = shards.read(i)
            digit = int(classes[index])
            assert sample.class_index == digit
            assert sample.text == caption(index, WORDS[digit]) == sample.meta["caption"]
            assert WORDS[digit] in sample.text
            assert sample.meta["query"] == WORDS[digit]
            image = Image.open(io.BytesIO(sample.image_bytes))
            assert (image.mode, image.size) == ("RGB", (32, 32))
            if i % 50 == 0:
                small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX))
                scan = pixels[index] * 255 / 16
                assert np.corrcoef(small.ravel(), scan)[0, 1] > 0.95
            index += 1
    assert index == len(pixels)


@pytest.mark.parametrize(("start", "stop"), [(0, TRAIN_COUNT), (TRAIN_COUNT, 1797)])
def test_captions_give_every_stage_something_to_do(start: int, stop: int) -> None:
    classes = load_digits().target
    texts = [caption(i, WORDS[classes[i]]) for i in range(start, stop)]
    short = [word_count(t) <= 2 for t in texts]
    assert 0.2 < np.mean(short) < 0.6
    left = Counter(int(c) for c, s in zip(classes[start:stop], short, strict=True) if not s)
    assert set(left) == set(range(10))
    assert min(left.values()) > 0.3 * (stop - start) / 10
    assert any(text.endswith(".") for text in texts)
    assert any(count > 1 for text, count in Counter(texts).items() if word_count(text) > 2)


def test_the_side_is_a_choice(tmp_path: Path) -> None:
    write_digits(str(tmp_path), side=48)
    sample = ShardSet.open(str(tmp_path / "test")).read(0)
    assert Image.open(io.BytesIO(sample.image_bytes)).size == (48, 48)
    with pytest.raises(ConfigurationError, match="side=4"):
        write_digits(str(tmp_path), side=4)


def race(home: Path, answers: SimpleQueue) -> None:
    answers.put(resolve("builtin:digits/train", home))


def test_processes_that_race_all_get_the_whole_data(tmp_path: Path) -> None:
    context = get_context("fork")  # they have imported everything and so start together
    answers = context.SimpleQueue()
    children = [context.Process(target=race, args=(tmp_path, answers)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=120)
        assert child.exitcode == 0
    assert {answers.get() for _ in children} == {resolve("builtin:digits/train", tmp_path)}
    folder = resolve("builtin:digits/test", tmp_path)
    assert len(ShardSet.open(folder)) == 397
    assert [p.name for p in (tmp_path / "data").iterdir()] == [Path(folder).parent.name]


def test_it_is_made_once_and_found_by_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    first = ShardSet.open("builtin:digits/train")
    made = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tar")}
    assert len(made) == 6
    again = ShardSet.open("builtin:digits/train")
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.tar")} == made
    assert (len(first), first.fingerprint) == (1400, again.fingerprint)


@pytest.mark.parametrize("uri", ["builtin:digits", "builtin:digits/val", "builtin:cats/train"])
def test_other_names_are_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{uri} is not.*builtin:digits/train"):
        resolve(uri, tmp_path)


def test_a_home_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="FLORENCE_HOME"):
        resolve("builtin:digits/train", tmp_path / "file")
