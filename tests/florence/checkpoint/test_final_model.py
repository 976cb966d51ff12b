from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from florence.checkpoint import (
    SupersededError,
    begin_attempt,
    committed_model,
    read_final_model,
    write_final_model,
)
from florence.config.storage import S3Settings
from florence.errors import DataError, TransientError
from florence.storage import FolderStorage, Storage, open_storage
from tests.child import run_child
from tests.florence.checkpoint.faults import HookedStorage, MemoryStorage, Moment, die_at

FILES = {"model.safetensors": b"weights" * 100, "config.json": b"{}"}
OTHERS = {name: body + b"2" for name, body in FILES.items()}


def content(storage: Storage) -> dict[str, bytes]:
    model = read_final_model(storage)
    return {name: model.read(name) for name in model.names()}


def key_of(storage: Storage, name: str) -> str:
    (key,) = [entry.key for entry in storage.list("model/") if entry.key.endswith(f"/{name}")]
    return key


def write_as_before(storage: Storage) -> None:
    """What earlier versions of this package left."""
    digests = {
        "config.json": {
            "size": 2,
            "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        }
    }
    storage.write("model/config.json", b"{}")
    commit = {"format": 1, "files": digests, "metadata": {"step": 9}}
    storage.write("model/commit.json", json.dumps(commit).encode())


def test_a_model_reads_back(any_storage: Storage) -> None:
    write_final_model(any_storage, FILES, {"step": 5}, attempt=3)
    model = read_final_model(any_storage)
    assert model.names() == ["config.json", "model.safetensors"]
    assert content(any_storage) == FILES
    assert model.metadata == {"step": 5}
    assert model.uri == any_storage.url("model")
    assert any_storage.read(f"model/{model.commit.folder}/config.json") == b"{}"
    assert model.commit.folder.startswith("3-")
    with pytest.raises(DataError, match="no file 'other'"):
        model.read("other")


def test_a_model_is_found_from_the_stage_and_from_its_own_folder(
    any_storage: Storage, s3_settings: S3Settings
) -> None:
    write_final_model(any_storage, FILES, attempt=1)
    inside = _below(any_storage, s3_settings)
    for storage in (any_storage, inside):
        model = committed_model(storage)
        assert model is not None
        assert model.uri == any_storage.url("model")
        assert {name: model.read(name) for name in model.names()} == FILES


def _below(storage: Storage, s3: S3Settings) -> Storage:
    return open_storage(f"{storage.uri}/model", s3)


def test_a_plain_folder_has_no_commit(any_storage: Storage, tmp_path: Path) -> None:
    assert committed_model(any_storage) is None
    any_storage.write("config.json", b"{}")
    any_storage.write("commits/000000000001-1.json", b"{}")  # a stage that has not finished
    assert committed_model(any_storage) is None
    assert committed_model(FolderStorage(tmp_path / "nowhere")) is None


@pytest.mark.parametrize("below", [False, True])
def test_models_of_before_are_read(
    any_storage: Storage, s3_settings: S3Settings, below: bool
) -> None:
    write_as_before(any_storage)
    model = committed_model(_below(any_storage, s3_settings) if below else any_storage)
    assert model is not None
    assert (model.read("config.json"), model.metadata) == (b"{}", {"step": 9})


def test_a_model_of_before_is_replaced(any_storage: Storage) -> None:
    write_as_before(any_storage)
    write_final_model(any_storage, FILES, attempt=2)
    assert content(any_storage) == FILES
    assert len(any_storage.list("model/")) == 3


def test_without_a_commit_there_is_no_model(any_storage: Storage) -> None:
    any_storage.write("model/1-0/model.safetensors", b"weights")
    with pytest.raises(DataError, match="no finished model"):
        read_final_model(any_storage)


@pytest.mark.parametrize("name", ["commit.json", "commit-3.json"])
def test_garbage_is_not_a_commit(folder_storage: Storage, name: str) -> None:
    folder_storage.write(f"model/{name}", b'{"format": 3}')
    with pytest.raises(DataError, match=rf"model/{name} is not a FinalModelCommit"):
        read_final_model(folder_storage)


@pytest.mark.parametrize("name", list(FILES))
def test_a_changed_or_lost_file_is_found(any_storage: Storage, name: str) -> None:
    write_final_model(any_storage, FILES, attempt=1)
    any_storage.write(key_of(any_storage, name), FILES[name][:-1] + b"?")
    with pytest.raises(DataError, match=f"{name} differs"):
        read_final_model(any_storage).read(name)
    any_storage.delete(key_of(any_storage, name))
    with pytest.raises(DataError, match="does not exist"):
        read_final_model(any_storage).read(name)
    write_final_model(any_storage, FILES, attempt=1)
    assert content(any_storage) == FILES
    assert len(any_storage.list("model/")) == 3


@pytest.mark.parametrize("attempt", [1, 2])
def test_the_same_model_is_not_written_twice(attempt: int) -> None:
    storage, written = MemoryStorage(), list[str]()

    def watch(operation: str, key: str, moment: Moment) -> None:
        if operation in ("write", "write_new", "delete") and moment == "before":
            written.append(key.rpartition("/")[2])

    write_final_model(HookedStorage(storage, watch), FILES, attempt=1)
    write_final_model(HookedStorage(storage, watch), FILES, attempt=attempt)
    assert written == [*FILES, "commit-1.json"]


def test_only_the_newest_attempt_s_model_is_kept(any_storage: Storage) -> None:
    for attempt in (1, 2, 2, 10):
        files = {name: body + str(attempt).encode() for name, body in FILES.items()}
        write_final_model(any_storage, files, attempt=attempt)
        assert content(any_storage) == files
        assert len(any_storage.list("model/")) == 3


def test_a_reader_of_a_model_that_is_replaced_starts_again(any_storage: Storage) -> None:
    write_final_model(any_storage, FILES, attempt=1)
    model = read_final_model(any_storage)
    write_final_model(any_storage, OTHERS, attempt=2)
    with pytest.raises(TransientError, match="was replaced while it was read"):
        model.read("config.json")


def _replace_and_die(storage: Storage, key: str) -> None:
    hooked = HookedStorage(storage, die_at("write", key, "during"))
    write_final_model(hooked, OTHERS, attempt=2)


@pytest.mark.parametrize("key", ["model.safetensors", "config.json", "commit-2.json"])
def test_a_kill_while_replacing_leaves_the_earlier_model(any_storage: Storage, key: str) -> None:
    write_final_model(any_storage, FILES, attempt=1)
    assert run_child(_replace_and_die, any_storage, key) == -signal.SIGKILL
    assert content(any_storage) == FILES
    write_final_model(any_storage, OTHERS, attempt=2)
    assert content(any_storage) == OTHERS


def test_a_full_disk_leaves_no_model() -> None:
    storage = MemoryStorage()

    def fail(operation: str, key: str, moment: Moment) -> None:
        if key.endswith("config.json"):
            raise TransientError(f"memory/{key}: No space left on device")

    with pytest.raises(TransientError, match="No space left"):
        write_final_model(HookedStorage(storage, fail), FILES, attempt=1)
    with pytest.raises(DataError, match="no finished model"):
        read_final_model(storage)


def _operations() -> int:
    counted: list[str] = []

    def count(operation: str, key: str, moment: Moment) -> None:
        if moment == "before":
            counted.append(key)

    storage = MemoryStorage()
    begin_attempt(storage, attempt=1)
    write_final_model(HookedStorage(storage, count), FILES, attempt=1)
    return len(counted)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("finishes", [True, False])
def test_a_zombie_never_harms_the_model_of_its_successor(moment: Moment, finishes: bool) -> None:
    """Whatever operation of the zombie the successor begins, or does all of its work, at."""
    for pause in range(_operations()):
        _zombie_pauses_at(pause, moment, finishes)


def _zombie_pauses_at(pause: int, moment: Moment, finishes: bool) -> None:
    storage, seen = MemoryStorage(), 0
    begin_attempt(storage, attempt=1)

    def successor(operation: str, key: str, when: Moment) -> None:
        nonlocal seen
        if when != moment:
            return
        if seen == pause:
            begin_attempt(storage, attempt=2)
            if finishes:
                write_final_model(storage, OTHERS, attempt=2)
                assert content(storage) == OTHERS
        seen += 1

    try:
        write_final_model(HookedStorage(storage, successor), FILES, attempt=1)
    except SupersededError:
        assert finishes or not [e for e in storage.list("model/") if "commit" in e.key]
    if finishes:
        assert content(storage) == OTHERS
        return
    write_final_model(storage, OTHERS, attempt=2)
    assert content(storage) == OTHERS
    assert len(storage.list("model/")) == 3


def test_the_model_of_a_zombie_that_finishes_first_is_whole_until_its_successor_s_is() -> None:
    storage = MemoryStorage()
    begin_attempt(storage, attempt=1)

    def begin(operation: str, key: str, when: Moment) -> None:
        if key == "model/commit-1.json" and when == "before":  # after its last look
            begin_attempt(storage, attempt=2)

    write_final_model(HookedStorage(storage, begin), FILES, attempt=1)
    assert content(storage) == FILES
    write_final_model(storage, OTHERS, attempt=2)
    assert content(storage) == OTHERS
