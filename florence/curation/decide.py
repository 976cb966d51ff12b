"""Which samples stay: the filters that look at more than one sample.

Samples are numbered in the order of their shards. The first of several copies stays; near
duplicates are resolved in that order too, each sample being dropped exactly when a sample before
it that *stays* is within the distance: no two that stay are near, and every dropped one is near
one that stays. Memory holds parts of what is sorted and one byte a sample, whatever their number;
the rest is files in the scratch folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.curation.measure import Reason
from florence.curation.neighbours import HashIndex, Table, pairs_of_table, scatter, tables
from florence.curation.settings import Curation
from florence.curation.spill import Spill, parts_for
from florence.data.ordered_map import map_in_processes

Load = Callable[[int], NDArray[Any]]
"""The records of a shard by its number; may be pickled."""

_IMAGE = np.dtype([("a", "<u8"), ("b", "<u8"), ("id", "<i8")])
_HASH = np.dtype([("hash", "<u8"), ("id", "<i8")])
_PAIR = np.dtype([("later", "<i8"), ("earlier", "<i8")])
_QUERY = np.dtype([("query", "<i8"), ("a", "<u8"), ("b", "<u8"), ("id", "<i8")])
_BINS = 1 << 12
_CHUNK = 1 << 18
NOBODY = -1


@dataclass(frozen=True)
class Resources:
    """What deciding may use; none of it changes the result.

    Attributes:
        scratch: an empty folder on a local disk.
        processes: that work side by side.
        memory: bytes that each of them sorts at a time.
    """

    scratch: Path
    processes: int = 1
    memory: int = 1 << 30


class Decisions:
    """For every sample the reason it is dropped, and the sample it is a copy of.

    Attributes:
        starts: int64 ``(shards + 1,)``: the number of each shard's first sample, and of all.
        reasons: uint8 by sample, values of :class:`Reason`.
        others: int64 by sample; for EXACT and NEAR a sample's number, for EVALUATION the number of
            an evaluation image, else ``NOBODY``.
    """

    def __init__(self, counts: Sequence[int], scratch: Path) -> None:
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        total = int(self.starts[-1])
        self.reasons = np.zeros(total, np.uint8)
        if total:
            self.others: NDArray[np.int64] = np.memmap(
                scratch / "others", np.int64, "w+", shape=(total,)
            )
            for start in range(0, total, _CHUNK):
                self.others[start : start + _CHUNK] = NOBODY
        else:
            self.others = np.empty(0, np.int64)

    def of_shard(self, shard: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Copies of the reasons and others of one shard."""
        part = slice(int(self.starts[shard]), int(self.starts[shard + 1]))
        return np.array(self.reasons[part]), np.array(self.others[part])

    def drop(self, ids: NDArray[np.int64], reason: Reason, others: NDArray[np.int64]) -> None:
        """Drop samples for a reason."""
        self.reasons[ids] = reason
        self.others[ids] = others

    def alive(self, shard: int) -> NDArray[np.int64]:
        """The numbers of the shard's samples that are not dropped."""
        first, end = int(self.starts[shard]), int(self.starts[shard + 1])
        return first + np.flatnonzero(self.reasons[first:end] == Reason.KEPT)


def decide(
    load: Load,
    counts: Sequence[int],
    settings: Curation,
    evaluation: NDArray[np.uint64],
    resources: Resources,
) -> Decisions:
    """Apply evaluation sets, exact and near duplicates and the cap, in that order.

    Args:
        load: gives the records of shard 0, 1, …; their ``reason`` is of the filters before.
        counts: samples by shard.
        settings: what to apply.
        evaluation: hashes of the evaluation sets' images.
        resources: where and with how much.
    """
    decisions = Decisions(counts, resources.scratch)
    shards = range(len(counts))
    look_up = partial(_evaluation_hits, load, _index_of(evaluation, settings))
    for shard, (reasons, hits) in zip(
        shards, map_in_processes(look_up, shards, resources.processes), strict=True
    ):
        first = int(decisions.starts[shard])
        decisions.reasons[first : first + len(reasons)] = reasons
        rows = np.flatnonzero(hits != NOBODY)
        decisions.drop(first + rows, Reason.EVALUATION, hits[rows])
    if settings.exact_duplicates:
        _drop_exact(decisions, load, resources)
        _pass_on(decisions, Reason.EXACT)
    if settings.near_duplicates:
        _drop_near(decisions, load, settings.distance, resources)
        _pass_on(decisions, Reason.NEAR)
    if settings.max_per_query is not None:
        _cap_queries(decisions, load, settings.max_per_query, resources)
    return decisions


def _index_of(evaluation: NDArray[np.uint64], settings: Curation) -> HashIndex | None:
    return HashIndex(evaluation, settings.distance) if len(evaluation) else None


def _evaluation_hits(
    load: Load, index: HashIndex | None, shard: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    records = load(shard)
    hits = np.full(len(records), NOBODY, np.int64)
    if index is not None:
        rows = np.flatnonzero(records["reason"] == Reason.KEPT)
        hits[rows] = index.first_near(records["phash"][rows])
    return np.array(records["reason"]), hits


def _alive_records(
    decisions: Decisions, load: Load
) -> Iterator[tuple[NDArray[np.int64], NDArray[Any]]]:
    for shard in range(len(decisions.starts) - 1):
        ids = decisions.alive(shard)
        if len(ids):
            yield ids, load(shard)[ids - int(decisions.starts[shard])]


def _drop_exact(decisions: Decisions, load: Load, resources: Resources) -> None:
    total = int(decisions.starts[-1])
    parts = parts_for(total, _IMAGE, resources.memory)
    spill = Spill(resources.scratch / "exact", _IMAGE, parts)
    for ids, records in _alive_records(decisions, load):
        images = np.empty(len(ids), _IMAGE)
        images["a"], images["b"], images["id"] = records["digest_a"], records["digest_b"], ids
        images = _resolve_copies(decisions, images, ("a", "b"), Reason.EXACT)
        spill.add(images, scatter(images["a"], parts))
    for part in range(parts):
        _resolve_copies(decisions, spill.read(part), ("a", "b"), Reason.EXACT)
    spill.clear()


def _resolve_copies(
    decisions: Decisions, records: NDArray[Any], keys: tuple[str, ...], reason: Reason
) -> NDArray[Any]:
    """Drop all but the first of the records with equal keys; the firsts are returned."""
    if not len(records):
        return records
    ordered = records[np.lexsort((records["id"], *(records[key] for key in keys)))]
    new = np.ones(len(ordered), bool)
    new[1:] = np.logical_or.reduce([ordered[key][1:] != ordered[key][:-1] for key in keys])
    firsts = np.flatnonzero(new)
    owner = ordered["id"][firsts][np.cumsum(new) - 1]
    decisions.drop(ordered["id"][~new], reason, owner[~new])
    return ordered[new]


def _drop_near(decisions: Decisions, load: Load, distance: int, resources: Resources) -> None:
    hashes = resources.scratch / "hashes"
    count = _write_unique_hashes(decisions, load, hashes, resources)
    if count > 1 and distance:
        task = partial(_pairs_of, hashes, count, distance, resources)
        chosen = enumerate(tables(count, distance))
        found = list(map_in_processes(task, chosen, resources.processes))
        _resolve_pairs(decisions, found, resources)
    hashes.unlink()


def _pass_on(decisions: Decisions, reason: Reason) -> None:
    """Have copies of a sample that is dropped for the same reason name what that one names."""
    changed = True
    while changed:  # at most from a shard's first to all shards' first to what dropped that
        changed = False
        for start in range(0, len(decisions.reasons), _CHUNK):
            ids = start + np.flatnonzero(decisions.reasons[start : start + _CHUNK] == reason)
            others = decisions.others[ids]
            again = decisions.reasons[others] == reason
            decisions.others[ids[again]] = decisions.others[others[again]]
            changed |= bool(again.any())


def _write_unique_hashes(decisions: Decisions, load: Load, path: Path, resources: Resources) -> int:
    """Write every hash that is left with its first sample; the other samples of it are dropped.

    Their fate is the first's: kept, it drops them; dropped, what drops it is as near to them.
    """
    parts = parts_for(int(decisions.starts[-1]), _HASH, resources.memory)
    spill = Spill(resources.scratch / "by-hash", _HASH, parts)
    for ids, records in _alive_records(decisions, load):
        found = np.empty(len(ids), _HASH)
        found["hash"], found["id"] = records["phash"], ids
        found = _resolve_copies(decisions, found, ("hash",), Reason.NEAR)
        spill.add(found, scatter(found["hash"], parts))
    count = 0
    with path.open("wb") as file:
        for part in range(parts):
            unique = _resolve_copies(decisions, spill.read(part), ("hash",), Reason.NEAR)
            unique.tofile(file)
            count += len(unique)
    spill.clear()
    return count


def _pairs_of(
    hashes: Path,
    count: int,
    distance: int,
    resources: Resources,
    numbered: tuple[int, Table],
) -> Path:
    """Write the near pairs that one table finds; a task of a process."""
    number, table = numbered
    parts = parts_for(count, _HASH, resources.memory)
    spill = Spill(resources.scratch / f"table-{number:04d}", _HASH, parts)
    with hashes.open("rb") as file:
        while len(chunk := np.fromfile(file, _HASH, _CHUNK)):
            spill.add(chunk, scatter(chunk["hash"] & table.mask, parts))
    path = resources.scratch / f"pairs-{number:04d}"
    with path.open("wb") as out:
        for part in range(parts):
            records = spill.read(part)
            for i, j in pairs_of_table(records["hash"], table, distance):
                pairs = np.empty(len(i), _PAIR)
                pairs["later"] = np.maximum(records["id"][i], records["id"][j])
                pairs["earlier"] = np.minimum(records["id"][i], records["id"][j])
                pairs.tofile(out)
    spill.clear()
    return path


def _resolve_pairs(decisions: Decisions, files: list[Path], resources: Resources) -> None:
    """Go through the near pairs in the order of the later sample; see the module's docstring."""
    width = -(-len(decisions.reasons) // _BINS)
    bins = np.zeros(_BINS, np.int64)
    for chunk in _pair_chunks(files):
        bins += np.bincount(chunk["later"] // width, minlength=_BINS)
    part_of_bin = _even_parts(bins, resources.memory // (4 * _PAIR.itemsize))
    spill = Spill(resources.scratch / "by-later", _PAIR, int(part_of_bin[-1]) + 1)
    for chunk in _pair_chunks(files):
        spill.add(chunk, part_of_bin[chunk["later"] // width])
    for path in files:
        path.unlink()
    for part in range(spill.parts):
        pairs = spill.read(part)
        pairs = pairs[np.lexsort((pairs["earlier"], pairs["later"]))]
        starts = np.flatnonzero(np.diff(pairs["later"], prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(pairs)]):
            earlier = pairs["earlier"][start:end]
            kept = np.flatnonzero(decisions.reasons[earlier] == Reason.KEPT)
            if len(kept):
                later = int(pairs["later"][start])
                decisions.reasons[later] = Reason.NEAR
                decisions.others[later] = earlier[kept[0]]
    spill.clear()


def _pair_chunks(files: list[Path]) -> Iterator[NDArray[Any]]:
    for path in files:
        with path.open("rb") as file:
            while len(chunk := np.fromfile(file, _PAIR, _CHUNK)):
                yield chunk


def _even_parts(bins: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """A part for every bin in ascending order, of at most so many records where a bin allows."""
    parts = np.zeros(len(bins), np.int64)
    part = held = 0
    for number, count in enumerate(bins.tolist()):
        if held and held + count > most:
            part, held = part + 1, 0
        held += count
        parts[number] = part
    return parts


def _cap_queries(decisions: Decisions, load: Load, most: int, resources: Resources) -> None:
    """Keep the ``most`` samples of each query whose images have the lowest digests."""
    parts = parts_for(int(decisions.starts[-1]), _QUERY, resources.memory)
    spill = Spill(resources.scratch / "queries", _QUERY, parts)
    for ids, records in _alive_records(decisions, load):
        found = np.empty(len(ids), _QUERY)
        found["query"], found["id"] = records["query"], ids
        found["a"], found["b"] = records["digest_a"], records["digest_b"]
        found = found[found["query"] != 0]
        spill.add(found, scatter(found["query"].view(np.uint64), parts))
    for part in range(parts):
        chosen = np.empty(0, _QUERY)
        # In chunks, so that one query with most of the data does not have to fit into memory.
        for chunk in spill.chunks(part, _CHUNK):
            both = np.concatenate([chosen, chunk])
            both = both[np.lexsort((both["id"], both["b"], both["a"], both["query"]))]
            new = np.ones(len(both), bool)
            new[1:] = both["query"][1:] != both["query"][:-1]
            starts = np.flatnonzero(new)
            rank = np.arange(len(both)) - starts[np.cumsum(new) - 1]
            beyond = both["id"][rank >= most]
            decisions.drop(beyond, Reason.QUERY, np.full(len(beyond), NOBODY))
            chosen = both[rank < most]
    spill.clear()
