"""Shards as the writer packs them, read back by the reader and by tarfile."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.archive import Archive
from florence.data.shard_writer import ShardWriter, stored_size, write_shard
from florence.storage import FolderStorage, Storage


def keys_by_shard(storage: Storage) -> dict[str, list[str]]:
    found = {}
    for entry in storage.list():
        archive = Archive(storage, entry.key, entry.size)
        found[entry.key] = [sample.key for sample in archive.samples()]
        assert not archive.problems
    return found


@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=30),
    samples=st.integers(1, 8),
    most=st.integers(1024, 8000),
)
def test_every_sample_is_stored_once_in_order_within_the_limits(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], samples: int, most: int
) -> None:
    storage = FolderStorage(tmp_path_factory.mktemp("shards"))
    told = []
    with ShardWriter(
        storage, "s", samples=samples, size=most, on_shard=lambda n, c: told.append((n, c))
    ) as writer:
        for number, size in enumerate(sizes):
            writer.add(f"{number:04d}", {"bin": bytes(size), "txt": b"x"})
    found = keys_by_shard(storage)
    assert [key for shard in found.values() for key in shard] == [
        f"{n:04d}" for n in range(len(sizes))
    ]
    assert told == [(name, len(keys)) for name, keys in found.items()]
    assert list(found) == [f"s-{n:06d}.tar" for n in range(len(found))]
    for keys in found.values():
        assert len(keys) <= samples
        taken = sum(stored_size({"bin": bytes(sizes[int(k)]), "txt": b"x"}) for k in keys)
        assert taken <= most or len(keys) == 1


def test_the_same_samples_are_the_same_bytes_and_names_may_be_long(
    tmp_path: Path, any_storage: Storage
) -> None:
    names = ["a" * 150, "plain", "größe", "folder/x"]
    samples = [(name, {"txt": name.encode(), "cls": b"1"}) for name in names]
    write_shard(any_storage, "a.tar", iter(samples))
    write_shard(any_storage, "b.tar", samples)
    assert any_storage.read("a.tar") == any_storage.read("b.tar")
    local = tmp_path / "a.tar"
    local.write_bytes(any_storage.read("a.tar"))
    with tarfile.open(local) as archive:
        assert archive.getnames() == [f"{n}.{e}" for n in names for e in ("txt", "cls")]
        assert {(info.mtime, info.uid, info.mode) for info in archive} == {(0, 0, 0o644)}


def test_a_failure_stores_only_whole_shards(folder_storage: Storage) -> None:
    def fail() -> None:
        with ShardWriter(folder_storage, "s", samples=2, size=1 << 20) as writer:
            for number in range(5):
                if number == 3:
                    raise RuntimeError("stop")
                writer.add(str(number), {"txt": b"x"})

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert keys_by_shard(folder_storage) == {"s-000000.tar": ["0", "1"]}
