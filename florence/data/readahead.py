"""Reading what will be needed, before it is needed, in few long reads and bounded memory.

A process knows the samples of all its coming steps. It takes as many steps as half its memory
holds, sorts their samples by place, joins neighbours into ranges of megabytes and reads those in
the background while it decodes the half before. One process reads every byte about once; with many,
each reads its own share, and a range never spans more than a small gap of bytes nobody here needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from florence.data.mixture import Mixture
from florence.data.shards import Place, ShardSet

MAX_GAP = 256 << 10
MAX_RANGE = 8 << 20
READERS = 8
_FIRST_GROUP = 2 << 20  # the first batch should not wait for half the memory to fill
_GROWTH = 4


@dataclass(frozen=True)
class Range:
    """One read: a run of bytes in a shard, and the samples that lie in it."""

    place: Place
    samples: tuple[tuple[int, Place], ...]


def join_ranges(wanted: Iterable[tuple[int, Place]]) -> list[Range]:
    """Samples and their places as few ranges, in the order of the shards.

    Samples join when at most ``MAX_GAP`` bytes lie between them and the range stays within
    ``MAX_RANGE``; a single longer sample is a range by itself.
    """
    ranges: list[list[tuple[int, Place]]] = []
    start = end = shard = -1
    for sample, place in sorted(wanted, key=lambda item: (item[1].shard, item[1].offset)):
        stop = place.offset + place.length
        near = place.shard == shard and place.offset - end <= MAX_GAP
        if not near or max(stop, end) - start > MAX_RANGE:
            ranges.append([])
            start, end, shard = place.offset, stop, place.shard
        ranges[-1].append((sample, place))
        end = max(end, stop)
    return [_range(samples) for samples in ranges]


def _range(samples: Sequence[tuple[int, Place]]) -> Range:
    first = samples[0][1]
    end = max(place.offset + place.length for _, place in samples)
    return Range(Place(first.shard, first.offset, end - first.offset), tuple(samples))


@dataclass
class _Group:
    """Steps whose samples are read together."""

    steps: list[int]
    runs: Future[dict[int, bytes]]


class ReadAhead:
    """The bytes of the samples of each step.

    Args:
        shards: where samples are.
        samples_of: the samples of a step; empty behind the last step.
        stride: the process is asked for every ``stride``-th step. A wrong guess costs time only.
        budget: bytes that may be held, at least one step's. When all shards fit, they are read once
            and stay over epochs.
    """

    def __init__(
        self,
        shards: ShardSet | Mixture,
        samples_of: Callable[[int], Sequence[int]],
        stride: int,
        budget: int,
    ) -> None:
        self._shards = shards
        self._samples_of = samples_of
        self._stride = stride
        self._half = max(1, budget // 2)
        self._kept: dict[int, bytes] | None = {} if shards.size <= budget else None
        self._groups: deque[_Group] = deque()
        self._next_step = -1
        self._group_bytes = min(_FIRST_GROUP, self._half)
        self._planner = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="range-read")

    def take(self, step: int) -> dict[int, bytes]:
        """The bytes of a step's samples, by sample; more may be in the mapping."""
        while self._groups and step not in self._groups[0].steps:
            self._groups.popleft()
        if not self._groups:
            self._next_step = step
            self._start_group()
        if len(self._groups) < 2:
            self._start_group()
        return self._groups[0].runs.result()

    def close(self) -> None:
        """Stop reading."""
        self._planner.shutdown(wait=False, cancel_futures=True)
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _start_group(self) -> None:
        steps: list[int] = []
        wanted: dict[int, Place] = {}
        size = 0
        while samples := self._samples_of(self._next_step):
            fresh = {s: self._shards.place(s) for s in samples if s not in wanted}
            added = sum(place.length for place in fresh.values())
            if steps and size + added > self._group_bytes:
                break
            steps.append(self._next_step)
            wanted.update(fresh)
            size += added
            self._next_step += self._stride
        if steps:
            self._groups.append(_Group(steps, self._planner.submit(self._read, wanted)))
            self._group_bytes = min(self._half, self._group_bytes * _GROWTH)

    def _read(self, wanted: dict[int, Place]) -> dict[int, bytes]:
        kept = self._kept if self._kept is not None else {}
        runs = {sample: kept[sample] for sample in wanted if sample in kept}
        ranges = join_ranges((s, place) for s, place in wanted.items() if s not in runs)
        for part in self._readers.map(self._read_range, ranges):
            runs.update(part)
        if self._kept is not None:
            self._kept.update(runs)
        return runs

    def _read_range(self, span: Range) -> dict[int, bytes]:
        data = self._shards.read_place(span.place)
        start = span.place.offset
        return {
            sample: data[place.offset - start : place.offset - start + place.length]
            for sample, place in span.samples
        }
