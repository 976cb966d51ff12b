"""Saving: in the background, all or nothing, by one or many ranks."""

from __future__ import annotations

import hashlib
import json
import threading
from itertools import pairwise
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.checkpoint import (
    CheckpointWriter,
    Fragment,
    SingleProcess,
    configuration_digest,
    newest,
    read_whole,
)
from florence.errors import DataError, FlorenceError, TransientError
from florence.storage import Storage
from tests.florence.checkpoint.faults import (
    HookedStorage,
    MemoryStorage,
    Moment,
    check,
    fragments,
    rank_state,
    save,
    writer,
)
from tests.florence.checkpoint.threads import ThreadExchange, run_threads


def test_the_files_are_what_the_protocol_says(any_storage: Storage) -> None:
    saver = writer(any_storage, 3, clock=lambda: 123.0)
    save(saver, 70, 3)
    commit = saver.wait()
    assert commit is not None
    keys = [entry.key for entry in any_storage.list()]
    assert keys[:2] == ["attempts/3.json", "commits/000000000070-3.json"]
    stored = json.loads(any_storage.read(keys[1]))
    assert stored["prefix"].startswith("data/step-70/3-")
    assert keys[2:] == [key for key in keys if key.startswith(stored["prefix"])]
    manifest_body = any_storage.read(f"{stored['prefix']}/manifest.json")
    assert hashlib.sha256(manifest_body).hexdigest() == stored["manifest_sha256"]
    manifest = json.loads(manifest_body)
    assert (manifest["step"], manifest["attempt"], manifest["world_size"]) == (70, 3, 1)
    assert manifest["written"] == 123.0
    assert set(manifest["versions"]) == {"florence", "torch", "python"}
    stored_files = {key.rpartition("/")[2] for key in keys[2:]}
    assert set(manifest["files"]) == stored_files - {"manifest.json"}
    for name, digest in manifest["files"].items():
        body = any_storage.read(f"{stored['prefix']}/{name}")
        assert digest == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        assert safetensors.torch.load(body)
    assert len(manifest["files"]) > 3, "the test state was meant to take several shards"


def test_saving_returns_before_the_upload_and_copies_first(folder_storage: Storage) -> None:
    go = threading.Event()

    def hold(operation: str, key: str, moment: Moment) -> None:
        if operation == "write" and moment == "before":
            assert go.wait(30)

    saver = writer(HookedStorage(folder_storage, hold), 1)
    values = torch.ones(10)
    saver.save(1, [Fragment("model/w", (10,), 0, values)], {}, {})
    values.fill_(2.0)  # the next optimizer step
    assert newest(folder_storage) is None
    go.set()
    assert saver.wait() is not None
    found = newest(folder_storage)
    assert found is not None
    assert torch.equal(found.read("model/w"), torch.ones(10))


def test_one_save_at_a_time(folder_storage: Storage) -> None:
    running: list[int] = []

    def watch(operation: str, key: str, moment: Moment) -> None:
        if operation == "write":
            running.append(threading.get_ident())
            assert len(set(running[-2:])) == 1 or "step-2" in key

    saver = writer(HookedStorage(folder_storage, watch), 1)
    for step in (1, 2):
        saver.save(step, fragments(step, 1), {}, {})
    assert saver.wait() is not None
    assert [entry.key[8:20] for entry in folder_storage.list("commits/")] == [
        "0" * 11 + "1",
        "0" * 11 + "2",
    ]


def test_wait_without_a_save_is_none(folder_storage: Storage) -> None:
    assert writer(folder_storage, 1).wait() is None
    assert folder_storage.list() == []


def test_whatever_write_fails_nothing_is_committed_and_the_next_save_works() -> None:
    counted: list[str] = []
    save(writer(HookedStorage(MemoryStorage(), lambda o, k, m: counted.append(o)), 1), 20, 1)
    assert len(counted) > 20
    outcomes = [_save_20_with_failure_at(failing) for failing in range(1, len(counted) + 1)]
    assert {step for failed, step in outcomes if not failed} == {20}
    # Only when the answer to the commit itself is lost may a failed save be there.
    assert [step for failed, step in outcomes if failed].count(20) == 1


def _save_20_with_failure_at(failing: int) -> tuple[bool, int]:
    """Whether the save failed when one storage operation did, and the step that is newest then."""
    storage = MemoryStorage()
    save(writer(storage, 1), 10, 1)
    operations = 0

    def fail(operation: str, key: str, moment: Moment) -> None:
        nonlocal operations
        operations += 1
        if operations == failing:
            raise TransientError(f"{key}: No space left on device")

    saver = writer(HookedStorage(storage, fail), 1)
    saver.save(20, fragments(20, 1), rank_state(20, 0), {"step": 20, "attempt": 1})
    failed = False
    try:
        saver.wait()
    except TransientError:
        failed = True
    found = newest(storage)
    assert found is not None
    step, _ = check(found)
    save(saver, 30, 1)
    again = newest(storage)
    assert again is not None
    assert check(again) == (30, 1)
    return failed, step


def test_a_failure_surfaces_at_the_next_save_once(folder_storage: Storage) -> None:
    broken = True

    def fail(operation: str, key: str, moment: Moment) -> None:
        if broken and "manifest" in key:
            raise RuntimeError("cosmic ray")

    saver = writer(HookedStorage(folder_storage, fail), 1)
    saver.save(1, fragments(1, 1), {}, {})
    with pytest.raises(TransientError, match=r"step 1 failed \(RuntimeError: cosmic ray"):
        saver.save(2, fragments(2, 1), {}, {})
    assert saver.wait() is None
    broken = False
    saver.save(3, fragments(3, 1), {}, {})
    commit = saver.wait()
    assert commit is not None
    assert commit.step == 3


def test_a_shard_that_vanished_or_shrank_is_not_committed(any_storage: Storage) -> None:
    def shrink(operation: str, key: str, moment: Moment) -> None:
        if operation == "write" and "-001." in key and moment == "after":
            any_storage.write(key, b"shrunk")

    with pytest.raises(TransientError, match=r"step 10 is incomplete: .* has 6 of its"):
        save(writer(HookedStorage(any_storage, shrink), 1), 10, 1)
    assert any_storage.list("commits/") == []


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([(0, 4), (5, 5)], "elements 4 to 5 are missing"),
        ([(0, 6), (5, 5)], "elements 5 to 6 are written twice"),
        ([(0, 9)], "elements 9 to 10 are missing"),
        ([(0, 10), (0, 10)], "written twice"),
    ],
)
def test_fragments_that_do_not_make_a_whole_are_not_committed(
    parts: list[tuple[int, int]], message: str
) -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1)
    cut = [Fragment("w", (10,), offset, torch.zeros(length)) for offset, length in parts]
    saver.save(1, cut, {}, {})
    with pytest.raises(FlorenceError, match=f"'w' do not make a whole: .*{message}"):
        saver.wait()
    assert storage.list("commits/") == []


def test_ranks_that_disagree_about_a_tensor_are_not_committed() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1)
    halves = [
        Fragment("w", (4,), 0, torch.zeros(2)),
        Fragment("w", (4,), 2, torch.zeros(2, dtype=torch.float16)),
    ]
    saver.save(1, halves, {}, {})
    with pytest.raises(FlorenceError, match="different shapes or types"):
        saver.wait()
    assert storage.list("commits/") == []


def test_wrong_arguments_fail_at_once() -> None:
    saver = writer(MemoryStorage(), 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        saver.save(1, [], {}, {"loss": float("nan")})
    with pytest.raises(ValueError, match="are for the state of ranks"):
        saver.save(1, [Fragment("rank/0/x", (1,), 0, torch.zeros(1))], {}, {})
    assert saver.wait() is None


def test_saving_a_step_again_keeps_the_first_commit() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1)
    save(saver, 10, 1)
    first = saver.wait()
    save(saver, 10, 1)
    assert saver.wait() == first


def test_saving_a_step_again_replaces_a_commit_that_is_not_whole() -> None:
    storage = MemoryStorage()
    saver = writer(storage, 1)
    save(saver, 10, 1)
    first = saver.wait()
    assert first is not None
    storage.delete(f"{first.prefix}/manifest.json")
    save(saver, 10, 1)
    found = newest(storage, on_skip=pytest.fail)
    assert found is not None
    assert check(found) == (10, 1)


def _save_on(storage: Storage, step: int, exchange: ThreadExchange) -> Any:
    saver = CheckpointWriter(storage, attempt=1, world=exchange, exchange=exchange, shard_bytes=64)
    rank, size = exchange.rank, exchange.size
    own = rank_state(step, rank)
    saver.save(step, fragments(step, 1, rank, size), own, {"step": step, "attempt": 1})
    return saver.wait()


def test_all_ranks_share_one_fate_when_one_fails() -> None:
    storage = MemoryStorage()

    def on(exchange: ThreadExchange) -> Any:
        def fail(operation: str, key: str, moment: Moment) -> None:
            if exchange.rank == 2 and "rank-00002" in key:
                raise TransientError("memory: No space left on device")

        return _save_on(HookedStorage(storage, fail), 10, exchange)

    outcomes = run_threads(on, 3)
    assert [type(outcome) for outcome in outcomes] == [TransientError] * 3
    assert {str(outcome) for outcome in outcomes} == {"memory: No space left on device"}
    assert storage.list("commits/") == []


def test_all_ranks_restore_the_same_commit_when_one_sees_damage() -> None:
    storage = MemoryStorage()
    for step in (10, 20):
        outcomes = run_threads(lambda exchange, step=step: _save_on(storage, step, exchange), 3)
    prefix = outcomes[0].prefix
    key = f"{prefix}/rank-00002-000.safetensors"
    storage.write(key, storage.read(key)[:-1] + b"\xff")
    messages: list[str] = []

    def restore(exchange: ThreadExchange) -> tuple[int, int]:
        found = newest(storage, exchange=exchange, on_skip=messages.append)
        assert found is not None
        return check(found, ranks=3)

    assert run_threads(restore, 2) == [(10, 1), (10, 1)]
    assert len(messages) == 1
    assert "rank-00002-000.safetensors differs" in messages[0]


def test_all_ranks_learn_when_rank_zero_cannot_list() -> None:
    def restore(exchange: ThreadExchange) -> Any:
        def fail(operation: str, key: str, moment: Moment) -> None:
            raise TransientError("memory: did not answer")

        return newest(HookedStorage(MemoryStorage(), fail), exchange=exchange)

    assert [str(outcome) for outcome in run_threads(restore, 3)] == ["memory: did not answer"] * 3


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(16, 300))
def test_any_cut_by_any_ranks_reads_back_in_any_other_cut(
    data: st.DataObject, size: int, shard_bytes: int
) -> None:
    shapes = data.draw(st.lists(st.sampled_from([(), (7,), (3, 5), (0, 2), (40,)]), min_size=1))
    tensors = {f"t{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    shares: list[list[Fragment]] = [[] for _ in range(size)]
    for name, tensor in tensors.items():
        elements = tensor.numel()
        cuts = sorted({0, elements, *data.draw(st.lists(st.integers(0, elements), max_size=4))})
        for first, last in pairwise(cuts) if elements else [(0, 0)]:
            owner = data.draw(st.integers(0, size - 1))
            run = tensor.reshape(-1)[first:last]
            shares[owner].append(Fragment(name, tuple(tensor.shape), first, run))
    storage = MemoryStorage()

    def store(exchange: ThreadExchange) -> Any:
        saver = CheckpointWriter(
            storage, attempt=1, world=exchange, exchange=exchange, shard_bytes=shard_bytes
        )
        saver.save(1, shares[exchange.rank], {}, {})
        return saver.wait()

    assert all(outcome is not None for outcome in run_threads(store, size))
    found = newest(storage, on_skip=pytest.fail)
    assert found is not None
    assert found.rank_state(0) is None
    for name, tensor in tensors.items():
        assert torch.equal(read_whole(found, name), tensor)
        first = data.draw(st.integers(0, tensor.numel()))
        length = data.draw(st.integers(0, tensor.numel() - first))
        assert torch.equal(found.read(name, first, length), tensor.reshape(-1)[first:][:length])
        with pytest.raises(DataError, match=f"'{name}' has {tensor.numel()} elements"):
            found.read(name, first, tensor.numel() - first + 1)
    with pytest.raises(DataError, match="holds no tensor 'absent'"):
        found.read("absent")


def test_the_digest_of_a_configuration_ignores_the_order_of_keys() -> None:
    digest = configuration_digest({"a": 1, "b": [1, 2]})
    assert digest == configuration_digest({"b": [1, 2], "a": 1})
    assert digest != configuration_digest({"a": 1, "b": [2, 1]})
    assert len(digest) == 64


def test_a_gang_of_one_exchanges_with_itself() -> None:
    alone = SingleProcess()
    assert alone.gather("x") == ["x"]
    assert alone.broadcast("x") == "x"
