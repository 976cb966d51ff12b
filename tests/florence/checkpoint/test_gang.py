"""Saves and restores by several real processes over gloo."""

from __future__ import annotations

import os
import signal

import pytest
import torch.distributed as dist

from florence.checkpoint import CheckpointWriter, GlooExchange, begin_attempt, newest
from florence.errors import LostPeersError, TransientError
from florence.storage import Storage
from tests.florence.checkpoint.faults import (
    HookedStorage,
    Moment,
    check,
    fragments,
    rank_state,
)
from tests.gang import run_gang


def _save_all(storages: list[Storage], steps: list[int], attempt: int) -> list[str]:
    exchange = GlooExchange()
    prefixes = []
    for storage in storages:
        begin_attempt(storage, attempt=attempt, exchange=exchange)
        saver = CheckpointWriter(
            storage, attempt=attempt, world=exchange, exchange=exchange, shard_bytes=96
        )
        for step in steps:
            share = fragments(step, attempt, exchange.rank, exchange.size)
            own = rank_state(step, exchange.rank)
            saver.save(step, share, own, {"step": step, "attempt": attempt})
            dist.barrier()  # training's own collectives go on meanwhile
        commit = saver.wait()
        assert commit is not None
        prefixes.append(commit.prefix)
    return prefixes


def _load_all(storages: list[Storage], ranks: int) -> list[tuple[int, int]]:
    exchange = GlooExchange()
    found = [newest(storage, exchange=exchange) for storage in storages]
    return [check(checkpoint, ranks) for checkpoint in found if checkpoint]


def test_what_any_number_of_ranks_wrote_loads_on_any_other(
    folder_storage: Storage, s3_storage: Storage
) -> None:
    storages = [folder_storage, s3_storage]
    for size, others, steps in [(2, 4, [10, 20]), (4, 2, [30])]:
        saved = run_gang(_save_all, size, storages, steps, size)
        assert all(prefixes == saved[0] for prefixes in saved)
        loaded = run_gang(_load_all, others, storages, size)
        assert loaded == [[(steps[-1], size)] * 2] * others
        for storage in storages:
            alone = newest(storage)
            assert alone is not None
            assert alone.manifest.world_size == size
            assert check(alone, size) == (steps[-1], size)


def _save_with_failing_rank(storage: Storage) -> str:
    exchange = GlooExchange()

    def fail(operation: str, key: str, moment: Moment) -> None:
        if exchange.rank == 1 and operation == "write" and moment == "during":
            raise TransientError(f"{key}: No space left on device")

    hooked = HookedStorage(storage, fail)
    saver = CheckpointWriter(hooked, attempt=1, world=exchange, exchange=exchange)
    saver.save(10, fragments(10, 1, exchange.rank, exchange.size), {}, {})
    try:
        saver.wait()
    except TransientError as error:
        return str(error)
    return "committed"


def test_a_full_disk_on_one_rank_is_every_rank_s_failure(any_storage: Storage) -> None:
    messages = run_gang(_save_with_failing_rank, 2, any_storage)
    assert all("rank-00001-000.safetensors: No space left" in message for message in messages)
    assert any_storage.list("commits/") == []
    assert newest(any_storage) is None


def _save_while_rank_one_dies(storage: Storage) -> str:
    exchange = GlooExchange(timeout_s=60)

    def die(operation: str, key: str, moment: Moment) -> None:
        if exchange.rank == 1 and operation == "write" and moment == "during":
            os.kill(os.getpid(), signal.SIGKILL)

    saver = CheckpointWriter(
        HookedStorage(storage, die), attempt=2, world=exchange, exchange=exchange
    )
    saver.save(20, fragments(20, 2, exchange.rank, exchange.size), {}, {})
    with pytest.raises(LostPeersError, match="during a checkpoint"):
        saver.wait()
    os._exit(7)  # the gang's closing barrier can no longer be met


def test_a_rank_that_is_killed_while_saving_costs_only_that_save(any_storage: Storage) -> None:
    run_gang(_save_all, 2, [any_storage], [10], 1)
    with pytest.raises(RuntimeError, match="died without an answer"):
        run_gang(_save_while_rank_one_dies, 2, any_storage)
    found = newest(any_storage)
    assert found is not None
    assert check(found, 2) == (10, 1)
    assert any(entry.key.startswith("data/step-20/") for entry in any_storage.list("data/"))
