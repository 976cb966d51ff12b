"""Counting what is distinct, with far more values than the buffer holds."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.statistics import ShardCounts, Tally, UniqueCounter
from florence.errors import TransientError

PER_SHARD = 20_000
VALUES = st.one_of(st.integers(0, 5), st.integers(-(2**63), 2**63 - 1))


@given(st.lists(st.lists(VALUES, max_size=30), max_size=8), st.integers(1, 40))
def test_counts_equal_a_brute_force_count(tmp_path_factory, parts, buffered: int) -> None:
    counter = UniqueCounter(tmp_path_factory.mktemp("spill") / "x", buffered)
    for part in parts:
        counter.add(np.array(part, np.int64))
    copies = Counter(value for part in parts for value in part)
    expected = len(copies), sum(n for n in copies.values() if n > 1)
    assert counter.count() == expected
    assert counter.count() == expected  # counting takes nothing away
    assert counter.added == copies.total()


def counts_of(shard: int, samples: int) -> ShardCounts:
    labels = np.random.default_rng(shard).integers(-(2**62), 2**62, samples)
    none = np.empty(0, np.int64)
    return ShardCounts(0, samples, 5 * samples, 0, 1, labels, none, none)


def peak_bytes(shards: int) -> int:
    tracemalloc.start()
    with Tally(buffered=50_000) as tally:
        for shard in range(shards):
            tally.add(counts_of(shard, PER_SHARD), 0)
        found = tally.statistics()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.unique_texts == found.texts == found.images == shards * PER_SHARD
    return peak


def test_memory_does_not_grow_with_the_corpus() -> None:
    peak_bytes(4)  # what is made once
    shards = 100
    hashes = shards * PER_SHARD * 8
    assert peak_bytes(shards) < hashes / 3


def test_the_temporary_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Tally(buffered=10) as tally:
        tally.add(counts_of(0, 100), 0)
        assert list(tmp_path.rglob("texts/*"))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TransientError, match="TMPDIR"):
        UniqueCounter(tmp_path / "file" / "x", 1).add(np.array([1, 2]))
