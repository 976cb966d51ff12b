from __future__ import annotations

import signal

import pytest

from florence.checkpoint import read_final_model, write_final_model
from florence.errors import DataError, TryAgainError
from florence.storage import Storage
from tests.child import run_child
from tests.florence.checkpoint.faults import HookedStorage, MemoryStorage, Moment, die_at

FILES = {"model.safetensors": b"weights" * 100, "config.json": b"{}"}


def test_a_model_reads_back(any_storage: Storage) -> None:
    write_final_model(any_storage, FILES, {"step": 5})
    model = read_final_model(any_storage)
    assert model.names() == ["config.json", "model.safetensors"]
    assert {name: model.read(name) for name in model.names()} == FILES
    assert model.metadata == {"step": 5}
    assert model.uri == any_storage.url("model")
    assert any_storage.read("model/config.json") == b"{}"
    with pytest.raises(DataError, match="no file 'other'"):
        model.read("other")


def test_without_a_commit_there_is_no_model(any_storage: Storage) -> None:
    any_storage.write("model/model.safetensors", b"weights")
    with pytest.raises(DataError, match="no finished model"):
        read_final_model(any_storage)


def test_garbage_is_not_a_commit(folder_storage: Storage) -> None:
    folder_storage.write("model/commit.json", b'{"format": 2}')
    with pytest.raises(DataError, match=r"model/commit\.json is not a FinalModelCommit"):
        read_final_model(folder_storage)


@pytest.mark.parametrize("name", list(FILES))
def test_a_changed_or_lost_file_is_found(any_storage: Storage, name: str) -> None:
    write_final_model(any_storage, FILES)
    any_storage.write(f"model/{name}", FILES[name][:-1] + b"?")
    with pytest.raises(DataError, match=f"{name} differs"):
        read_final_model(any_storage).read(name)
    any_storage.delete(f"model/{name}")
    with pytest.raises(DataError, match="does not exist"):
        read_final_model(any_storage).read(name)
    write_final_model(any_storage, FILES)
    assert read_final_model(any_storage).read(name) == FILES[name]


def test_the_same_model_is_not_written_twice() -> None:
    storage, written = MemoryStorage(), []

    def watch(operation: str, key: str, moment: Moment) -> None:
        if operation in ("write", "write_new", "delete") and moment == "before":
            written.append(key)

    for _ in range(2):
        write_final_model(HookedStorage(storage, watch), FILES)
    assert written == ["model/commit.json", *[f"model/{n}" for n in FILES], "model/commit.json"]


def _replace_and_die(storage: Storage, key: str) -> None:
    hooked = HookedStorage(storage, die_at("write", key, "during"))
    write_final_model(hooked, {name: body + b"2" for name, body in FILES.items()})


@pytest.mark.parametrize("key", ["model.safetensors", "config.json", "commit.json"])
def test_a_kill_while_replacing_never_leaves_a_mixture(any_storage: Storage, key: str) -> None:
    write_final_model(any_storage, FILES)
    assert run_child(_replace_and_die, any_storage, key) == -signal.SIGKILL
    with pytest.raises(DataError, match="no finished model"):
        read_final_model(any_storage)


def test_a_full_disk_leaves_no_model() -> None:
    storage = MemoryStorage()

    def fail(operation: str, key: str, moment: Moment) -> None:
        if key == "model/config.json":
            raise TryAgainError("memory/model/config.json: No space left on device")

    with pytest.raises(TryAgainError, match="No space left"):
        write_final_model(HookedStorage(storage, fail), FILES)
    with pytest.raises(DataError, match="no finished model"):
        read_final_model(storage)
