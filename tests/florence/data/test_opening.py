"""What a set of shards holds: read by one process for all, and looked at before a job starts."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from florence.data import opening
from florence.data import shards as shards_module
from florence.data.index import ShardIndex
from florence.data.indexing import index_data
from florence.data.labelled import CaptionedImages, LabelledImages
from florence.data.opening import DataState, describe_data
from florence.data.shards import Need, ShardSet
from florence.distributed.world import join
from florence.errors import ConfigurationError, DataError
from florence.storage import Entry, FolderStorage, Storage
from tests.florence.data.making import picture, sample, write_samples, write_shards
from tests.gang import run_gang

PROCESSES = 4


class Counting(FolderStorage):
    """A folder that counts the bytes that are read of each file, over all its instances."""

    read_bytes: ClassVar[Counter[str]] = Counter()

    def read(self, key: str) -> bytes:
        data = super().read(key)
        self.read_bytes[key] += len(data)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        data = super().read_range(key, start, length)
        self.read_bytes[key] += len(data)
        return data


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    Counting.read_bytes = Counter()
    monkeypatch.setattr(shards_module, "open_storage", lambda uri, s3=None: Counting(uri))
    return Counting.read_bytes


class Gang:
    """Threads that share: thread 0 computes, all get the result or the error."""

    def __init__(self) -> None:
        self._barrier = threading.Barrier(PROCESSES, timeout=60)
        self._outcome: tuple[Any, Exception | None] = None, None

    def share(self, rank: int) -> Callable[[Callable[[], Any]], Any]:
        def share(make: Callable[[], Any]) -> Any:
            if rank == 0:
                try:
                    self._outcome = make(), None
                except Exception as error:
                    self._outcome = None, error
            self._barrier.wait()
            value, error = self._outcome
            self._barrier.wait()
            if error is not None:
                raise error
            return value

        return share

    def run(self, work: Callable[[int, Any], Any]) -> list[Any]:
        """What ``work(rank, share)`` returns or raises, by rank."""

        def caught(rank: int) -> Any:
            try:
                return work(rank, self.share(rank))
            except Exception as error:
                return error

        with ThreadPoolExecutor(PROCESSES) as threads:
            return list(threads.map(caught, range(PROCESSES)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", 17, 6)
    return tmp_path / "shards"


def test_shards_without_an_index_are_read_once_for_all(folder: Path, reads: Counter[str]) -> None:
    write_samples(folder / "classes.tar", [sample(0)])
    (folder / "classes.json").write_text('["a", "b", "c"]')
    told: list[list[tuple[int, int]]] = [[] for _ in range(PROCESSES)]

    def work(rank: int, share: Any) -> ShardSet:
        return ShardSet.open(str(folder), share=share, on_shard=lambda *now: told[rank].append(now))

    sets = Gang().run(work)
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tar")}
    for name, size in sizes.items():
        assert reads[name] <= 1.1 * size, name
    assert {s.fingerprint for s in sets} == {ShardSet.open(str(folder)).fingerprint}
    assert [s.read(16) for s in sets] == [sets[0].read(16)] * PROCESSES
    assert [s.class_names for s in sets] == [("a", "b", "c")] * PROCESSES
    assert told == [[(n + 1, 4) for n in range(4)]] * PROCESSES


def test_the_manifest_is_read_once_for_all(folder: Path, reads: Counter[str]) -> None:
    index_data(str(folder))
    told: list[tuple[int, int]] = []
    sets = Gang().run(
        lambda rank, share: ShardSet.open(
            str(folder), share=share, on_shard=lambda *now: told.append(now)
        )
    )
    assert {len(s) for s in sets} == {17}
    assert reads == {"manifest.json": (folder / "manifest.json").stat().st_size}
    assert told == []


@pytest.mark.parametrize("damage", ["no shards", "no index", "an index that is none"])
def test_what_one_finds_wrong_all_raise(folder: Path, damage: str) -> None:
    if damage == "no shards":
        shutil.rmtree(folder)
        folder.mkdir()
    elif damage == "an index that is none":
        index_data(str(folder))
        (folder / "manifest.json").unlink()
        (folder / "00001.tar.idx").write_bytes(b"rubbish")
    raised = Gang().run(
        lambda rank, share: ShardSet.open(str(folder), share=share, allow_unindexed=False)
    )
    assert {type(error) for error in raised} == {DataError}
    assert len({str(error) for error in raised}) == 1
    if damage == "no index":
        assert f"run 'florencectl data index {folder}' first" in str(raised[0])


def test_with_an_index_nothing_is_refused(folder: Path) -> None:
    index_data(str(folder))
    assert len(ShardSet.open(str(folder), allow_unindexed=False)) == 17
    (folder / "manifest.json").unlink()
    assert len(ShardSet.open(str(folder), allow_unindexed=False)) == 17
    write_samples(folder / "00001.tar", [sample(i) for i in range(3)])
    with pytest.raises(DataError, match=r"00001\.tar has no current index"):
        ShardSet.open(str(folder), allow_unindexed=False)


def test_images_for_evaluation_are_opened_once_too(folder: Path, reads: Counter[str]) -> None:
    sets = Gang().run(lambda rank, share: LabelledImages.open(str(folder), share=share))
    assert [s.labels.tolist() for s in sets] == [[i % 3 for i in range(17)]] * PROCESSES
    assert all(reads[p.name] <= 1.1 * p.stat().st_size for p in folder.glob("*.tar"))
    reads.clear()
    sets = Gang().run(lambda rank, share: CaptionedImages.from_shards(str(folder), share=share))
    assert len({s.captions for s in sets}) == 1
    assert all(reads[p.name] <= 2.1 * p.stat().st_size for p in folder.glob("*.tar"))


def test_class_names(folder: Path) -> None:
    assert ShardSet.open(str(folder)).class_names is None
    assert LabelledImages.open(str(folder)).class_names is None
    (folder / "classes.json").write_text('["ant", "bee", "cat"]')
    assert ShardSet.open(f"{folder}/00001.tar").class_names == ("ant", "bee", "cat")
    assert LabelledImages.open(str(folder)).class_names == ("ant", "bee", "cat")
    (folder / "classes.json").write_text('["ant", "bee"]')
    with pytest.raises(DataError, match=r"class 2, but classes\.json names the classes 0 to 1"):
        LabelledImages.open(str(folder))


@pytest.mark.parametrize("content", ["", "{}", "[1]", '["a", "a"]', '"ab"'])
def test_class_names_that_are_none(folder: Path, content: str) -> None:
    (folder / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes\.json is not a JSON list of different"):
        ShardSet.open(str(folder))


def test_a_data_set_is_described_without_reading_shards(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Counting.read_bytes = Counter()
    monkeypatch.setattr("florence.data.opening.open_storage", lambda uri, s3=None: Counting(uri))
    uri = str(folder)
    assert describe_data(uri) == DataState(uri, exists=True, shards=3, unindexed=3)
    index_data(uri)
    whole = DataState(uri, exists=True, shards=3, unindexed=0, samples=17)
    assert describe_data(uri) == whole
    (folder / "manifest.json").unlink()
    assert describe_data(uri) == whole
    one = f"{folder}/00002.tar"
    assert describe_data(one) == DataState(one, exists=True, shards=1, unindexed=0, samples=5)
    write_samples(folder / "00001.tar", [sample(i, png=picture(i, 50, 50)) for i in range(9)])
    (folder / "00002.tar.idx").write_bytes(b"rubbish")
    assert describe_data(uri) == DataState(uri, exists=True, shards=3, unindexed=2)
    (folder / "00000.tar.idx").unlink()
    assert describe_data(uri) == DataState(uri, exists=True, shards=3, unindexed=3)
    assert not [name for name in Counting.read_bytes if name.endswith(".tar")]


def test_a_manifest_whose_index_is_gone_is_noticed(folder: Path) -> None:
    index_data(str(folder))
    (folder / "00001.tar.idx").unlink()
    assert describe_data(str(folder)).unindexed == 1


def test_an_index_with_a_long_list_of_problems(folder: Path) -> None:
    write_samples(folder / "00003.tar", [sample(i, png=None) for i in range(2000)])
    index_data(str(folder))
    (folder / "manifest.json").unlink()
    state = describe_data(str(folder))
    assert (state.shards, state.unindexed, state.samples) == (4, 0, 17)


def test_data_that_is_no_shards(tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert describe_data(nowhere) == DataState(nowhere, exists=False)
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(picture(0))
    assert describe_data(str(tmp_path)) == DataState(str(tmp_path), exists=True)
    (tmp_path / "manifest.json").write_text(json.dumps([1]))
    write_samples(tmp_path / "0.tar", [sample(0)])
    with pytest.raises(DataError, match=r"manifest\.json is not a manifest"):
        describe_data(str(tmp_path))


def test_builtin_data_is_not_made_to_be_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path))
    assert describe_data("builtin:digits/train").exists
    assert os.listdir(tmp_path) == []
    with pytest.raises(ConfigurationError, match="not a built-in data set"):
        describe_data("builtin:digits/none")


def test_describing_on_every_storage(any_storage: Storage, s3_settings, tmp_path: Path) -> None:
    write_shards(tmp_path / "x", 5, 2)
    for path in sorted((tmp_path / "x").glob("*.tar")):
        any_storage.write(path.name, path)
    assert describe_data(any_storage.uri, s3_settings).unindexed == 3
    index_data(any_storage.uri, s3_settings)
    state = describe_data(any_storage.uri, s3_settings)
    assert (state.shards, state.unindexed, state.samples) == (3, 0, 5)


def test_clips_count_as_samples(tmp_path: Path) -> None:
    write_samples(tmp_path / "0.tar", [sample(0), sample(1, png=None, mp4=b"clip")])
    index_data(str(tmp_path))
    assert describe_data(str(tmp_path)).samples == 2
    assert len(ShardSet.open(str(tmp_path), need=Need.VIDEO)) == 1


def _open_together(uri: str) -> dict[str, Any]:
    world = join(60.0)
    built: list[str] = []
    build = opening.build_index

    def watched(storage: Storage, entry: Entry) -> ShardIndex:
        built.append(entry.key)
        return build(storage, entry)

    opening.build_index = watched  # type: ignore[assignment]
    shards = ShardSet.open(uri, share=world.on_first)
    try:
        ShardSet.open(uri, share=world.on_first, allow_unindexed=False)
    except DataError as error:
        refused = str(error)
    last = shards.read(16)
    return {"built": built, "keys": shards.fingerprint, "last": last.key, "refused": refused}


def test_real_processes_open_together(folder: Path) -> None:
    first, second = run_gang(_open_together, 2, str(folder))
    assert first.pop("built") == ["00000.tar", "00001.tar", "00002.tar"]
    assert second.pop("built") == []
    assert first == second
    assert "florencectl data index" in first["refused"]
