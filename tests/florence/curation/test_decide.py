"""Deciding in parts on disk, in any number of processes, against a loop over a list."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from florence.curation.decide import NOBODY, Resources, decide
from florence.curation.measure import RECORD, Reason
from florence.curation.settings import Curation

Shards = list[NDArray[Any]]


@dataclass(frozen=True)
class Load:
    shards: tuple[NDArray[Any], ...]

    def __call__(self, shard: int) -> NDArray[Any]:
        return self.shards[shard]


def expected(
    shards: Shards, chosen: Curation, evaluation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """One sample after the other, each compared with all before it."""
    samples = [record for shard in shards for record in shard]
    reasons = [int(r["reason"]) for r in samples]
    others = [NOBODY] * len(samples)

    def kept_before(number: int) -> list[int]:
        return [n for n in range(number) if reasons[n] == Reason.KEPT]

    def apart(a: Any, b: int) -> int:
        return (int(a["phash"]) ^ int(b)).bit_count()

    for number, record in enumerate(samples):
        near = [n for n, h in enumerate(evaluation) if apart(record, h) <= chosen.distance]
        if reasons[number] == Reason.KEPT and near:
            reasons[number], others[number] = Reason.EVALUATION, near[0]
    for number, record in enumerate(samples):
        digest = (record["digest_a"], record["digest_b"])
        same = [
            n
            for n in kept_before(number)
            if (samples[n]["digest_a"], samples[n]["digest_b"]) == digest
        ]
        if reasons[number] == Reason.KEPT and same:
            reasons[number], others[number] = Reason.EXACT, same[0]
    for number, record in enumerate(samples):
        near = [
            n for n in kept_before(number) if apart(record, samples[n]["phash"]) <= chosen.distance
        ]
        if reasons[number] == Reason.KEPT and near:
            reasons[number], others[number] = Reason.NEAR, near[0]
    by_query: dict[int, list[int]] = {}
    for number, record in enumerate(samples):
        if reasons[number] == Reason.KEPT and record["query"]:
            by_query.setdefault(int(record["query"]), []).append(number)
    for numbers in by_query.values():
        key = lambda n: (int(samples[n]["digest_a"]), int(samples[n]["digest_b"]), n)  # noqa: E731
        for number in sorted(numbers, key=key)[chosen.max_per_query :]:
            reasons[number] = Reason.QUERY
    return reasons, others


@st.composite
def made_shards(draw: st.DrawFn) -> Shards:
    """Shards full of copies, chains of near hashes, few queries, and samples dropped before."""
    seeds = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))
    shards = []
    for count in draw(st.lists(st.integers(0, 12), min_size=1, max_size=5)):
        records = np.zeros(count, RECORD)
        records["relevance"] = math.nan
        for record in records:
            value = draw(st.sampled_from(seeds))
            for bit in draw(st.lists(st.integers(0, 63), max_size=4)):
                value ^= 1 << bit
            record["phash"] = value
            # Equal bytes have equal hashes.
            record["digest_a"] = value ^ 0x5555555555555555
            record["digest_b"] = draw(st.integers(0, 1))
            record["query"] = draw(st.sampled_from([0, -5, 7]))
            record["reason"] = draw(st.sampled_from([0, 0, 0, int(Reason.SMALL)]))
        shards.append(records)
    return shards


@given(
    shards=made_shards(),
    distance=st.integers(0, 6),
    most=st.integers(1, 5),
    evaluation=st.integers(0, 2),
    memory=st.sampled_from([200, 1 << 30]),
)
def test_any_memory_gives_what_a_loop_gives(
    tmp_path_factory: pytest.TempPathFactory,
    shards: Shards,
    distance: int,
    most: int,
    evaluation: int,
    memory: int,
) -> None:
    chosen = Curation(distance=distance, max_per_query=most)
    against = [int(r["phash"]) ^ 1 for shard in shards for r in shard][:evaluation]
    found = decide(
        Load(tuple(shards)),
        [len(shard) for shard in shards],
        chosen,
        np.array(against, np.uint64),
        Resources(tmp_path_factory.mktemp("scratch"), memory=memory),
    )
    reasons, others = expected(shards, chosen, against)
    assert found.reasons.tolist() == reasons
    assert found.others.tolist() == others


def test_processes_change_nothing(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    shards = []
    seeds = draw.integers(0, 2**64, 40, dtype=np.uint64)
    for count in (150, 0, 90, 160):
        records = np.zeros(count, RECORD)
        bits = np.uint64(1) << draw.integers(0, 64, (2, count), dtype=np.uint64)
        records["phash"] = draw.choice(seeds, count) ^ bits[0] ^ bits[1]
        records["digest_a"] = draw.integers(0, 300, count)
        records["query"] = draw.integers(0, 4, count)
        shards.append(records)
    chosen = Curation(distance=3, max_per_query=30)
    reference = expected(shards, chosen, [int(seeds[0])])
    assert {Reason.EVALUATION, Reason.EXACT, Reason.NEAR, Reason.QUERY} <= set(reference[0])
    for processes in (1, 2):
        scratch = tmp_path / str(processes)
        scratch.mkdir()
        found = decide(
            Load(tuple(shards)),
            [len(shard) for shard in shards],
            chosen,
            seeds[:1],
            Resources(scratch, processes=processes, memory=5_000),
        )
        assert (found.reasons.tolist(), found.others.tolist()) == reference
        assert {p.name for p in scratch.iterdir()} == {"others"}


@settings(max_examples=20)
@given(shards=made_shards())
def test_what_stays_is_apart_and_what_goes_is_near_what_stays(
    tmp_path_factory: pytest.TempPathFactory, shards: Shards
) -> None:
    chosen = Curation(distance=4, max_per_query=None)
    found = decide(
        Load(tuple(shards)),
        [len(shard) for shard in shards],
        chosen,
        np.empty(0, np.uint64),
        Resources(tmp_path_factory.mktemp("scratch")),
    )
    hashes = [int(r["phash"]) for shard in shards for r in shard]
    kept = np.flatnonzero(found.reasons == Reason.KEPT).tolist()
    assert all((hashes[i] ^ hashes[j]).bit_count() > 4 for i in kept for j in kept if i < j)
    for number in np.flatnonzero(found.reasons == Reason.NEAR).tolist():
        other = int(found.others[number])
        assert other in kept
        assert (hashes[number] ^ hashes[other]).bit_count() <= 4
