from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data import readahead
from florence.data.indexing import index_data
from florence.data.order import Order
from florence.data.readahead import ReadAhead, join_ranges
from florence.data.shards import Place, ShardSet
from tests.florence.data.making import sample, write_samples

COUNT, BATCH = 600, 10


class CountingStorage:
    """A storage that remembers its ranged reads."""

    def __init__(self, storage) -> None:
        self._storage = storage
        self.reads: list[tuple[str, int, int]] = []

    def __getattr__(self, name: str):
        return getattr(self._storage, name)

    def read_range(self, key: str, start: int, length: int) -> bytes:
        if key.endswith(".tar"):
            self.reads.append((key, start, length))
        return self._storage.read_range(key, start, length)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    for number in range(3):
        chosen = range(number * 200, number * 200 + 200)
        write_samples(folder / f"{number}.tar", [sample(i, bin=bytes(6000)) for i in chosen])
    index_data(str(folder))
    return folder


@pytest.fixture
def shards(folder: Path) -> ShardSet:
    shards = ShardSet.open(str(folder))
    shards.storage = CountingStorage(shards.storage)
    return shards


def run_epochs(shards: ShardSet, budget: int, epochs: int, share: tuple[int, int] = (0, 1)) -> int:
    """Take every step of some epochs and check the bytes; the most that was held at once."""
    worker, workers = share
    order = Order(COUNT, 5, 10_000)
    steps = COUNT // BATCH * epochs

    def samples_of(step: int) -> Sequence[int]:
        return order.samples(step * BATCH, step * BATCH + BATCH).tolist() if step < steps else []

    ahead, most = ReadAhead(shards, samples_of, workers, budget), 0
    for step in range(worker, steps, workers):
        runs = ahead.take(step)
        for i in samples_of(step):
            assert len(runs[i]) == shards.place(i).length
            shards.parse(i, runs[i])  # raises when a byte is wrong
        if ahead._kept is None:
            held = [group.runs.result() for group in ahead._groups]
            most = max(most, sum(len(run) for runs in held for run in runs.values()))
    ahead.close()
    return most


def test_data_that_fits_is_read_once_in_long_reads(shards: ShardSet) -> None:
    run_epochs(shards, 1 << 30, epochs=3)
    reads = shards.storage.reads
    assert sum(length for _, _, length in reads) < 1.1 * shards.size
    assert len(reads) <= 10  # 600 samples; the first group is small on purpose


def test_less_memory_costs_more_reads_but_stays_in_bounds(shards: ShardSet) -> None:
    budget = shards.size // 4
    most = run_epochs(shards, budget, epochs=1)
    reads = shards.storage.reads
    one_step = max(shards.place(i).length for i in range(COUNT)) * BATCH
    assert most <= budget + one_step
    assert len(reads) < COUNT / 4
    assert sum(length for _, _, length in reads) < 10 * shards.size


def test_reads_go_forward_within_a_group(shards: ShardSet, monkeypatch) -> None:
    monkeypatch.setattr(readahead, "READERS", 1)  # so that they are recorded in order
    run_epochs(shards, 1 << 30, epochs=1)
    reads = shards.storage.reads
    turns = sum(a >= b for a, b in pairwise(reads))
    assert turns <= 2


def test_workers_read_only_their_share_when_samples_are_far_apart(shards, monkeypatch) -> None:
    monkeypatch.setattr(readahead, "MAX_GAP", 0)
    for worker in range(4):
        run_epochs(shards, 1 << 30, epochs=1, share=(worker, 4))
    reads = shards.storage.reads
    assert sum(length for _, _, length in reads) <= sum(
        shards.place(i).length for i in range(COUNT)
    )


def test_an_unforeseen_step_is_only_slower(shards: ShardSet) -> None:
    order = Order(COUNT, 5, 10_000)

    def samples_of(step: int) -> Sequence[int]:
        return order.samples(step * BATCH, step * BATCH + BATCH).tolist()

    ahead = ReadAhead(shards, samples_of, 1, 1 << 20)
    for step in (0, 1, 40, 2, 3, 50):
        for i in samples_of(step):
            shards.parse(i, ahead.take(step)[i])
    ahead.close()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 60 << 20), st.integers(1, 1 << 20)), max_size=40
    )
)
def test_ranges_cover_their_samples_within_limits(places: list[tuple[int, int, int]]) -> None:
    wanted = {i: Place(*place) for i, place in enumerate(places)}
    ranges = join_ranges(wanted.items())
    assert sorted(i for r in ranges for i, _ in r.samples) == sorted(wanted)
    for span in ranges:
        end = span.place.offset + span.place.length
        for i, place in span.samples:
            assert place == wanted[i]
            assert place.shard == span.place.shard
            assert span.place.offset <= place.offset
            assert place.offset + place.length <= end
        assert span.place.length <= max(readahead.MAX_RANGE, max(p.length for _, p in span.samples))
        reached = span.place.offset
        for _, place in span.samples:
            assert place.offset - reached <= readahead.MAX_GAP
            reached = max(reached, place.offset + place.length)
