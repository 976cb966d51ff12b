"""All pairs of 64-bit hashes within a Hamming distance, exactly, without comparing all with all.

The bits are divided among ``distance + k`` blocks. Two hashes that differ in at most ``distance``
bits differ in at most so many blocks, so some k of the blocks are equal in both. For every choice
of k blocks there is a table, sorted by those blocks' bits; only hashes that are equal there are
compared (Manku, Jain, Das Sarma 2007). A larger k means more tables and fewer comparisons; it
changes the time, never the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from florence.curation.perceptual_hash import BITS, differing_bits

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

_SORT_COST = 50  # of putting a hash into a table, in comparisons
_MOST_EQUAL = 4
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Table:
    """One choice of blocks.

    Attributes:
        mask: the bits of the chosen blocks.
        skipped: the bits of each block before the last chosen one that is not chosen. A pair that
            is equal in one of them too is found by an earlier table.
    """

    mask: np.uint64
    skipped: tuple[np.uint64, ...]


def tables(count: int, distance: int) -> tuple[Table, ...]:
    """The tables that find all pairs of ``count`` hashes with the least work.

    Blocks take every so-manieth bit: neighbouring frequencies are alike, so that blocks of
    neighbours would be equal too often.
    """

    def cost(k: int) -> float:
        bits = BITS * k // (distance + k)
        return comb(distance + k, k) * (_SORT_COST + count / 2.0**bits)

    k = min(range(1, _MOST_EQUAL + 1), key=cost)
    size = distance + k
    blocks = [sum(1 << bit for bit in range(block, BITS, size)) for block in range(size)]
    return tuple(
        Table(
            mask=np.uint64(sum(blocks[number] for number in chosen)),
            skipped=tuple(
                np.uint64(blocks[number]) for number in range(chosen[-1]) if number not in chosen
            ),
        )
        for chosen in combinations(range(size), k)
    )


def scatter(keys: Hashes, parts: int) -> Numbers:
    """A part for every key, equal for equal keys and even otherwise."""
    mixed = keys * np.uint64(0x9E3779B97F4A7C15)
    mixed ^= mixed >> np.uint64(29)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    return ((mixed >> np.uint64(32)) % np.uint64(parts)).astype(np.int64)


def pairs_of_table(
    hashes: Hashes, table: Table, distance: int
) -> Iterator[tuple[Numbers, Numbers]]:
    """Positions (i, j) of pairs within ``distance`` that are equal in the bits of one table.

    Pairs that an earlier table has found are left out, so that all tables together give every pair
    once. Hashes are those of a whole data set or of a part by their bits in this table.
    """
    keys = hashes & table.mask
    order = np.argsort(keys, kind="stable")
    keys, sorted_hashes = keys[order], hashes[order]
    left = np.arange(len(hashes) - 1) if len(hashes) else np.empty(0, np.int64)
    gap = 1
    while len(left := left[left < len(hashes) - gap]):
        left = left[keys[left] == keys[left + gap]]
        for start in range(0, len(left), _CHUNK):
            a, b = left[start : start + _CHUNK], left[start : start + _CHUNK] + gap
            near = differing_bits(sorted_hashes[a], sorted_hashes[b]) <= distance
            a, b = a[near], b[near]
            differ = sorted_hashes[a] ^ sorted_hashes[b]
            new = np.ones(len(a), bool)
            for block in table.skipped:
                new &= (differ & block) != 0
            if new.any():
                yield order[a[new]], order[b[new]]
        gap += 1


class HashIndex:
    """A set of hashes in memory in which the near ones of others are looked up.

    Args:
        hashes: uint64 ``(N,)``; takes 16 bytes for each and table.
        distance: bits that may differ.
    """

    def __init__(self, hashes: Hashes, distance: int) -> None:
        self._distance = distance
        self._hashes = hashes
        self._tables = []
        for table in tables(len(hashes), distance):
            order = np.argsort(hashes & table.mask, kind="stable")
            self._tables.append((table.mask, hashes[order] & table.mask, order))

    def first_near(self, queries: Hashes) -> Numbers:
        """For every query the lowest number of a hash within the distance, or -1."""
        none = len(self._hashes)
        found = np.full(len(queries), none, np.int64)
        for mask, keys, order in self._tables:
            wanted = queries & mask
            start = np.searchsorted(keys, wanted, side="left")
            end = np.searchsorted(keys, wanted, side="right")
            open_rows = np.flatnonzero(end > start)
            while len(open_rows):
                number = order[start[open_rows]]
                near = differing_bits(queries[open_rows], self._hashes[number]) <= self._distance
                hit = open_rows[near]
                found[hit] = np.minimum(found[hit], number[near])
                start[open_rows] += 1
                open_rows = open_rows[start[open_rows] < end[open_rows]]
        found[found == none] = -1
        return found
