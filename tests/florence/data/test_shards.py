from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path

import pytest
from cachetools import LRUCache

from florence.config import CaptionLabel, Text, TextIdentity
from florence.data import shards
from florence.data.indexing import index_data
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.errors import DataError
from florence.text.normalisation import text_label
from tests.florence.data.making import WORDS, picture, sample, write_samples, write_shards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", 17, 6)
    return tmp_path / "shards"


@pytest.mark.parametrize("indexed", ["manifest", "index", "nothing"])
def test_samples_are_the_same_however_they_are_indexed(folder: Path, indexed, caplog) -> None:
    if indexed != "nothing":
        index_data(str(folder))
    if indexed == "index":
        (folder / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        shards = ShardSet.open(str(folder))
    assert ("3 of 3 shards had no current index" in caplog.text) == (indexed == "nothing")
    assert len(shards) == 17
    for i in range(17):
        got = shards.read(i)
        assert got.key == shards.key(i) == f"{i // 6:05d}/{i:05d}"
        assert got.image_bytes == picture(i)
        assert got.text == WORDS[i % 5]
        assert got.label_id == text_label(WORDS[i % 5])
        assert got.class_index == i % 3
        assert got.short == (i % 5 < 3)
        assert got.meta["query"] == f"q{i % 7}"
    with pytest.raises(IndexError):
        shards.read(17)
    assert pickle.loads(pickle.dumps(shards)).read(16) == shards.read(16)


@pytest.mark.parametrize("short_words", [0, 1, 2, 3, 20])
def test_short_texts_can_be_left_out(folder: Path, short_words: int) -> None:
    index_data(str(folder))
    text = Text(short_words=short_words)
    expected = [i for i in range(17) if len(WORDS[i % 5].split()) > short_words]
    if not expected:
        with pytest.raises(DataError, match="all texts are short"):
            ShardSet.open(str(folder), text=text, exclude_short=True)
        return
    shards = ShardSet.open(str(folder), text=text, exclude_short=True)
    assert [int(shards.read(i).key[-5:]) for i in range(len(shards))] == expected
    assert not any(shards.read(i).short for i in range(len(shards)))


def test_needs(tmp_path: Path) -> None:
    rows = [
        sample(0, txt=None, json=None),
        sample(1, cls=None),
        sample(2, txt=None, json=json.dumps({"caption": "From json"}).encode()),
        sample(3, txt=None, json=None, cls=b"tabby cat"),
    ]
    write_samples(tmp_path / "0.tar", rows)
    keys = {
        need: [int(s.key[-1]) for s in map(shards.read, range(len(shards)))]
        for need in (Need.TEXT, Need.CLASS, Need.IMAGE)
        for shards in [ShardSet.open(str(tmp_path), need=need)]
    }
    assert keys == {Need.TEXT: [1, 2, 3], Need.CLASS: [0, 2], Need.IMAGE: [0, 1, 2, 3]}
    shards = ShardSet.open(str(tmp_path))
    assert [shards.read(i).text for i in range(3)] == [WORDS[1], "From json", "tabby cat"]
    assert shards.read(2).label_id == text_label("tabby cat")
    assert ShardSet.open(str(tmp_path), need=Need.CLASS).class_indices().tolist() == [0, 2]


def test_labels_follow_the_settings(tmp_path: Path) -> None:
    texts = [b"A  dog", b"a dog", b"a dog"]
    write_samples(tmp_path / "0.tar", [sample(i, txt=t) for i, t in enumerate(texts)])

    def labels(text: Text) -> list[int]:
        shards = ShardSet.open(str(tmp_path), text=text)
        return [shards.read(i).label_id for i in range(3)]

    canonical = labels(Text())
    exact = labels(Text(identity=TextIdentity.EXACT))
    unique = labels(Text(label=CaptionLabel.UNIQUE))
    assert len(set(canonical)) == 1
    assert exact[0] != exact[1] == exact[2]
    assert len(set(unique)) == 3


def test_a_fingerprint_follows_content_and_selection_but_not_the_place(folder: Path) -> None:
    first = ShardSet.open(str(folder))
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    index_data(str(copy))
    assert ShardSet.open(str(copy)).fingerprint == first.fingerprint
    assert ShardSet.open(str(copy), exclude_short=True).fingerprint != first.fingerprint
    write_samples(copy / "00002.tar", [sample(i, txt=b"cow") for i in range(12, 17)])
    index_data(str(copy))
    assert ShardSet.open(str(copy)).fingerprint != first.fingerprint


def test_a_shard_of_another_size_is_read_again(folder: Path, caplog) -> None:
    index_data(str(folder))
    write_samples(folder / "00001.tar", [sample(i) for i in range(100, 103)])
    with caplog.at_level(logging.WARNING):
        shards = ShardSet.open(str(folder))
    assert "1 of 3 shards had no current index" in caplog.text
    assert len(shards) == 6 + 3 + 5
    assert shards.read(6).image_bytes == picture(100)


def test_a_shard_exchanged_for_one_of_the_same_size_is_noticed(folder: Path) -> None:
    index_data(str(folder))
    shards = ShardSet.open(str(folder))
    shard = folder / "00001.tar"
    shard.write_bytes(shard.read_bytes().replace(b"a bird", b"a bard"))
    assert shards.read(0)
    with pytest.raises(BrokenSampleError, match="the shard changed") as failure:
        shards.read(7)
    assert (failure.value.shard, failure.value.key) == ("00001.tar", "00007")


def test_a_shard_that_is_gone_is_an_error_and_a_new_one_is_found(folder: Path) -> None:
    index_data(str(folder))
    write_samples(folder / "00009.tar", [sample(99)])
    assert len(ShardSet.open(str(folder))) == 18
    (folder / "00000.tar").unlink()
    with pytest.raises(DataError, match=r"00000\.tar is in the manifest but not there"):
        ShardSet.open(str(folder))


def test_an_index_that_is_not_the_manifests_is_an_error(folder: Path) -> None:
    index_data(str(folder))
    shards = ShardSet.open(str(folder))
    shutil.copy(folder / "00000.tar.idx", folder / "00001.tar.idx")
    assert shards.read(0)
    with pytest.raises(DataError, match=r"00001\.tar is not the one in the manifest"):
        shards.read(6)


def test_one_shard_of_a_folder(folder: Path) -> None:
    index_data(str(folder))
    shards = ShardSet.open(f"{folder}/00001.tar")
    assert [shards.read(i).key[-5:] for i in range(len(shards))] == [
        f"{i:05d}" for i in range(6, 12)
    ]
    with pytest.raises(DataError, match=r"00007\.tar holds no shards"):
        ShardSet.open(f"{folder}/00007.tar")


@pytest.mark.parametrize(
    ("changes", "need", "reason"),
    [
        ({"txt": b" ", "json": None}, Need.TEXT, "no image has a text"),
        ({"cls": None}, Need.CLASS, r"no image has a \.cls"),
        ({"png": None}, Need.IMAGE, "no image in the shards"),
        ({}, Need.VIDEO, "no clip in the shards"),
    ],
)
def test_nothing_usable_names_the_uri_and_why(tmp_path: Path, changes, need, reason) -> None:
    write_samples(tmp_path / "0.tar", [sample(0, **changes)])
    with pytest.raises(DataError, match=reason) as failure:
        ShardSet.open(str(tmp_path), need=need)
    assert str(tmp_path) in str(failure.value)


def test_open_indexes_are_kept_within_bytes(tmp_path: Path, monkeypatch) -> None:
    """However many shards a process has read from, it holds the indexes that fit."""
    write_shards(tmp_path, 60, 3)
    index_data(str(tmp_path))
    held: list[int] = []

    class Watched(LRUCache):
        def __setitem__(self, key, value) -> None:
            super().__setitem__(key, value)
            held.append(self.currsize)

    monkeypatch.setattr(shards, "INDEX_BYTES", 1_000)
    monkeypatch.setattr(shards, "LRUCache", Watched)
    opened = ShardSet.open(str(tmp_path))
    assert [opened.read(i).key[-5:] for i in range(60)] == [f"{i:05d}" for i in range(60)]
    assert len(held) == 20
    assert max(held) <= 1_000
    assert min(held) > 0
