"""Checkpoints that were whole once: truncated, flipped, lost, garbled. An older one is taken."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from florence.checkpoint import newest
from florence.checkpoint.manifest import MANIFEST, CommitId
from florence.checkpoint.reader import Checkpoint
from florence.errors import DataError, TransientError
from florence.storage import Storage
from tests.florence.checkpoint.faults import check, save, writer

Damage = Callable[[Storage, str], None]
NEWEST = CommitId(20, 1).key


def _shard(storage: Storage, prefix: str) -> str:
    return next(e.key for e in storage.list(f"{prefix}/") if e.key.endswith("-001.safetensors"))


def _truncate(storage: Storage, prefix: str) -> None:
    key = _shard(storage, prefix)
    storage.write(key, storage.read(key)[:-1])


def _flip_a_bit(storage: Storage, prefix: str) -> None:
    key = _shard(storage, prefix)
    body = bytearray(storage.read(key))
    body[-1] ^= 1
    storage.write(key, bytes(body))


def _lose_a_key(storage: Storage, prefix: str) -> None:
    storage.delete(_shard(storage, prefix))


def _lose_the_manifest(storage: Storage, prefix: str) -> None:
    storage.delete(f"{prefix}/{MANIFEST}")


def _garble_the_manifest(storage: Storage, prefix: str) -> None:
    storage.write(f"{prefix}/{MANIFEST}", b"\x00 not json")


def _edit_the_manifest(storage: Storage, prefix: str) -> None:
    manifest = json.loads(storage.read(f"{prefix}/{MANIFEST}"))
    manifest["metadata"]["step"] += 1
    storage.write(f"{prefix}/{MANIFEST}", json.dumps(manifest).encode())


def _garble_the_commit(storage: Storage, prefix: str) -> None:
    storage.write(NEWEST, b'{"format": 1, "step"')


def _empty_the_commit(storage: Storage, prefix: str) -> None:
    storage.write(NEWEST, b"")


def _point_elsewhere(storage: Storage, prefix: str) -> None:
    storage.write(NEWEST, storage.read(CommitId(10, 1).key))


def _point_outside(storage: Storage, prefix: str) -> None:
    commit = json.loads(storage.read(NEWEST))
    commit["prefix"] = "data/step-20/../../secrets"
    storage.write(NEWEST, json.dumps(commit).encode())


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _flip_a_bit,
        _lose_a_key,
        _lose_the_manifest,
        _garble_the_manifest,
        _edit_the_manifest,
        _garble_the_commit,
        _empty_the_commit,
        _point_elsewhere,
        _point_outside,
    ],
)
def test_a_damaged_commit_is_skipped_with_a_warning(any_storage: Storage, damage: Damage) -> None:
    saver = writer(any_storage, 1)
    for step in (10, 20):
        save(saver, step, 1)
    commit = saver.wait()
    assert commit is not None
    damage(any_storage, commit.prefix)
    messages: list[str] = []
    found = newest(any_storage, on_skip=messages.append)
    assert found is not None
    assert check(found) == (10, 1)
    assert len(messages) == 1
    assert "step 20" in messages[0]
    assert any_storage.uri in messages[0]
    assert "\n" not in messages[0]


def test_other_keys_among_the_commits_are_not_commits(any_storage: Storage) -> None:
    save(writer(any_storage, 1), 10, 1)
    for name in ("latest.json", "000000000099-1.json.bak", "99-1.json", "000000000099-x.json"):
        any_storage.write(f"commits/{name}", any_storage.read(CommitId(10, 1).key))
    found = newest(any_storage, on_skip=pytest.fail)
    assert found is not None
    assert check(found) == (10, 1)


def test_when_all_are_damaged_there_is_none(folder_storage: Storage) -> None:
    saver = writer(folder_storage, 1)
    for step in (10, 20):
        save(saver, step, 1)
    for entry in folder_storage.list("commits/"):
        folder_storage.write(entry.key, b"{}")
    messages: list[str] = []
    assert newest(folder_storage, on_skip=messages.append) is None
    assert len(messages) == 2


def test_damage_after_opening_is_found_before_use(folder_storage: Storage) -> None:
    saver = writer(folder_storage, 1)
    save(saver, 10, 1)
    found = newest(folder_storage)
    unread = newest(folder_storage, digests=False)
    commit = saver.wait()
    assert isinstance(found, Checkpoint)
    assert isinstance(unread, Checkpoint)
    assert commit is not None
    _flip_a_bit(folder_storage, commit.prefix)
    with pytest.raises(DataError, match=r"-001\.safetensors differs"):
        _read_all(found)
    _lose_a_key(folder_storage, commit.prefix)
    with pytest.raises(TransientError, match="deleted while it was read"):
        _read_all(unread)


def _read_all(checkpoint: Checkpoint) -> None:
    for name in checkpoint.names():
        checkpoint.read(name)


def test_a_damaged_attempt_record_costs_nothing(folder_storage: Storage) -> None:
    save(writer(folder_storage, 1), 10, 1)
    save(writer(folder_storage, 2), 20, 2)
    folder_storage.write("attempts/2.json", b"garbage")
    messages: list[str] = []
    found = newest(folder_storage, on_skip=messages.append)
    assert found is not None
    assert check(found) == (20, 2)
    assert "attempt 2" in messages[0]
