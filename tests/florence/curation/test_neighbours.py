"""The search against a comparison of all with all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from florence.curation.neighbours import HashIndex, pairs_of_table, scatter, tables


@st.composite
def hashes(draw: st.DrawFn, most: int = 40) -> NDArray[np.uint64]:
    """Distinct hashes, many of them a few bits from another."""
    found = set(draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8)))
    for _ in range(draw(st.integers(0, most - 8))):
        value = draw(st.sampled_from(sorted(found)))
        for bit in draw(st.lists(st.integers(0, 63), max_size=14)):
            value ^= 1 << bit
        found.add(value)
    return np.array(draw(st.permutations(sorted(found))), np.uint64)


def near_pairs(values: NDArray[np.uint64], distance: int) -> set[tuple[int, int]]:
    listed = values.tolist()
    return {
        (i, j)
        for i, j in combinations(range(len(listed)), 2)
        if (listed[i] ^ listed[j]).bit_count() <= distance
    }


# The number of hashes decides which tables there are; the pairs they find must not depend on it.
@settings(max_examples=50)
@given(
    values=hashes(),
    distance=st.sampled_from([0, 1, 3, 6, 9]),
    count=st.sampled_from([1, 10**5, 10**9]),
)
def test_tables_find_every_pair_exactly_once(
    values: NDArray[np.uint64], distance: int, count: int
) -> None:
    found: list[tuple[int, int]] = []
    for table in tables(count, distance):
        for i, j in pairs_of_table(values, table, distance):
            found += [(min(p), max(p)) for p in zip(i.tolist(), j.tolist(), strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == near_pairs(values, distance)


def test_parts_of_a_table_together_find_the_same() -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(0, 2**64, 300, dtype=np.uint64)
    flips = np.uint64(1) << draw.integers(0, 64, 300, dtype=np.uint64)
    values = np.unique(np.concatenate([values, values ^ flips]))
    found = set()
    for table in tables(len(values), 3):
        part = scatter(values & table.mask, 7)
        for number in range(7):
            rows = np.flatnonzero(part == number)
            for i, j in pairs_of_table(values[rows], table, 3):
                found |= {(min(p), max(p)) for p in zip(rows[i], rows[j], strict=True)}
    assert found == near_pairs(values, 3)
    assert len(found) >= 300


@given(values=hashes(), queries=hashes(), distance=st.integers(0, 12))
def test_the_index_finds_the_first_near_hash(
    values: NDArray[np.uint64], queries: NDArray[np.uint64], distance: int
) -> None:
    found = HashIndex(values, distance).first_near(queries)
    for query, number in zip(queries.tolist(), found.tolist(), strict=True):
        near = [n for n, v in enumerate(values.tolist()) if (v ^ query).bit_count() <= distance]
        assert number == (near[0] if near else -1)


@pytest.mark.parametrize("distance", [0, 3, 6, 12])
def test_more_hashes_are_sorted_by_more_bits(distance: int) -> None:
    few, many = ([int(t.mask) for t in tables(count, distance)] for count in (100, 10**9))
    assert len(many) >= len(few)
    for masks in (few, many):
        assert len(set(masks)) == len(masks)
    assert min(m.bit_count() for m in many) >= min(m.bit_count() for m in few)
