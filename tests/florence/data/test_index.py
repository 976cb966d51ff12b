"""The byte index of a shard: where everything is, and files of both versions."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from florence.data.index import RECORD, ShardIndex, build_index, read_header
from florence.data.indexing import index_data
from florence.data.manifest import NAME
from florence.data.shards import Need, ShardSet
from florence.errors import DataError
from florence.storage import FolderStorage
from tests.florence.data.making import (
    VERSION_1,
    as_version_1,
    picture,
    sample,
    write_samples,
    write_shards,
)


def index_of(path: Path) -> ShardIndex:
    storage = FolderStorage(path.parent)
    (entry,) = storage.list(path.name)
    return build_index(storage, entry)


def test_every_record_points_at_the_members_bytes(tmp_path: Path) -> None:
    write_shards(tmp_path, 12, 12)
    shard = tmp_path / "00000.tar"
    index, data = index_of(shard), shard.read_bytes()
    with tarfile.open(shard) as archive:
        stored = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}
    assert index.keys == tuple(f"{i:05d}" for i in range(12))
    for key, record in zip(index.keys, index.records, strict=True):
        run = data[record["offset"] : record["offset"] + record["length"]]
        for part, extension in (("media", "png"), ("text", "txt"), ("json", "json")):
            start, length = record[part], record[f"{part}_length"]
            assert run[start : start + length] == stored[f"{key}.{extension}"]
    assert index.records["class_index"].tolist() == [i % 3 for i in range(12)]
    assert index.problems == ()


def test_an_index_survives_its_file_and_damage_is_noticed(tmp_path: Path) -> None:
    write_shards(tmp_path, 5, 5)
    index = index_of(tmp_path / "00000.tar")
    data = index.to_bytes()
    again = ShardIndex.from_bytes(data, "00000.tar", "url")
    assert np.array_equal(again.records, index.records)
    assert (again.keys, again.size, again.shard) == (index.keys, index.size, "00000.tar")
    damaged = [b"", b"{}\n", data[:40], data[: -RECORD.itemsize], data.replace(b'": 3,', b'": 9,')]
    for cut in damaged:
        with pytest.raises(DataError, match="url is not an index"):
            ShardIndex.from_bytes(cut, "00000.tar", "url")


def test_a_head_tells_what_the_whole_does(tmp_path: Path) -> None:
    write_shards(tmp_path, 5, 5)
    index = index_of(tmp_path / "00000.tar")
    data = index.to_bytes()
    end = data.index(b"\n") + 1
    header = read_header(data[:end], "url")
    assert (header.count, header.size, header.modified) == (5, index.size, index.modified)
    assert header.length == end
    with pytest.raises(DataError, match="url is not an index"):
        read_header(data[: end - 1], "url")


def test_version_1_has_the_same_layout() -> None:
    assert VERSION_1.itemsize == RECORD.itemsize
    for name, new in (("image", "media"), ("crc", "crc"), ("text_source", "text_source")):
        assert VERSION_1.fields[name][1] == RECORD.fields[new][1]


@pytest.mark.parametrize("count", [0, 17])
def test_an_index_of_version_1_is_still_read(tmp_path: Path, count: int) -> None:
    write_shards(tmp_path, 17, 6)
    if not count:
        write_samples(tmp_path / "00003.tar", [sample(0, png=None)])
    index_data(str(tmp_path))
    new = ShardSet.open(str(tmp_path))
    samples = [new.read(i) for i in range(len(new))]
    for path in tmp_path.glob("*.idx"):
        index = ShardIndex.from_bytes(path.read_bytes(), path.stem, "url")
        path.write_bytes(as_version_1(index))
    manifest = json.loads((tmp_path / NAME).read_text())
    for shard in manifest["shards"]:
        del shard["clips"]
    (tmp_path / NAME).write_text(json.dumps(manifest))
    for given in ("the manifest", "the indexes alone"):
        old = ShardSet.open(str(tmp_path), allow_unindexed=False)
        assert old.fingerprint == new.fingerprint, given
        for i, sample_ in enumerate(samples):
            again = old.read(i)
            assert (again.media_type, sample_.media_type) == ("image", "png")
            assert (again.key, again.text, again.label_id, again.image_bytes) == (
                sample_.key,
                sample_.text,
                sample_.label_id,
                sample_.image_bytes,
            )
        (tmp_path / NAME).unlink(missing_ok=True)


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv", "avi", "mov"])
def test_clips_are_samples_of_their_own_need(tmp_path: Path, kind: str) -> None:
    rows = [
        sample(0),
        sample(1, png=None, **{kind: b"a clip"}),
        sample(2, png=None, txt=None, json=None, cls=None, **{kind: b"another"}),
        sample(3, **{kind: b"with a picture of it"}),
    ]
    write_samples(tmp_path / "0.tar", rows)
    index_data(str(tmp_path))
    for need, expected in (
        (Need.TEXT, [0, 3]),
        (Need.CLASS, [0, 3]),
        (Need.IMAGE, [0, 3]),
        (Need.VIDEO, [1, 2]),
    ):
        for exclude_short in (False, True):
            kept = [i for i in expected if not exclude_short or i not in (0, 1)]
            shards = ShardSet.open(str(tmp_path), need=need, exclude_short=exclude_short)
            assert [int(shards.key(i)[-1]) for i in range(len(shards))] == kept
    clips = ShardSet.open(str(tmp_path), need=Need.VIDEO)
    first = clips.read(0)
    assert (first.media_bytes, first.media_type) == (b"a clip", kind)
    assert (first.text, first.class_index) == ("dog", 1)
    assert ShardSet.open(str(tmp_path), need=Need.IMAGE).read(1).media_bytes == picture(3)


def test_a_sample_that_spans_too_much_is_named(tmp_path: Path) -> None:
    """A tar with holes: 5 GiB between a sample's picture and its text."""
    shard = tmp_path / "0.tar"
    sizes = {"a.png": len(picture(0)), "a.tif": 5 << 30, "a.txt": 1, "b.png": len(picture(1))}
    with shard.open("wb") as file:
        for name, size in sizes.items():
            info = tarfile.TarInfo(name)
            info.size = size
            file.write(info.tobuf(tarfile.GNU_FORMAT))
            start = file.tell()
            if size < 1 << 20:
                file.write({"a.png": picture(0), "b.png": picture(1)}.get(name, b"x"))
            file.seek(start + -(-size // 512) * 512)
        file.truncate(file.tell() + 1024)
    index = index_of(shard)
    assert index.keys == ("b",)
    assert "a" in {p.member for p in index.problems}
    assert "below 4 GiB" in index.problems[0].reason
