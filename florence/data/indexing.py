"""``data index`` and ``data check``: every shard read once, in memory that does not grow with them.

A process reads a shard and hands over its summary and its hashes; what is counted over all shards
is :mod:`florence.data.statistics`' business.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np

from florence.config.storage import S3Settings
from florence.data.archive import Problem
from florence.data.images import decode
from florence.data.index import SUFFIX, VERSION, ShardIndex, build_index
from florence.data.locations import list_shards, locate
from florence.data.manifest import (
    CLASSES,
    NAME,
    ShardSummary,
    manifest_bytes,
    read_class_names,
    read_index,
)
from florence.data.members import is_beyond_all
from florence.data.statistics import ShardCounts, Statistics, Tally
from florence.data.video.decoding import check_clip
from florence.errors import DataError, TransientError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

MOST_PROBLEMS = 100_000
"""Problems that are listed; all are counted. A list of more is a data set to be made anew."""
_AHEAD = 4


@dataclass(frozen=True)
class Indexed:
    """The outcome of indexing: what the data holds, and what of it cannot be used.

    ``problems`` lists the first ``MOST_PROBLEMS``; ``statistics.problems`` counts all.
    """

    uri: str
    statistics: Statistics
    problems: tuple[Problem, ...]


Progress = Callable[[int, int, str], None]
"""Called as (shards done, shards in all, the shard just done)."""


@dataclass(frozen=True)
class _Read:
    """What a process hands over of a shard."""

    summary: ShardSummary
    counts: ShardCounts
    problems: tuple[Problem, ...]

    @staticmethod
    def of(index: ShardIndex, *extra: Problem) -> _Read:
        return _Read(ShardSummary.of(index), ShardCounts.of(index), (*index.problems, *extra))


def index_data(
    uri: str,
    s3: S3Settings | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    on_shard: Progress = lambda done, total, shard: None,
) -> Indexed:
    """Write an index beside every shard and then, unless the URI is one shard, ``manifest.json``.

    A shard whose index is newer and names its present size and date is not read again unless
    ``force``. ``workers`` processes read shards side by side.

    Raises:
        DataError: there is no shard at the URI.
        TransientError: a process was killed, or the folder for temporary files is full.
    """
    root, only = locate(uri)
    storage = open_storage(root, s3)
    names = read_class_names(storage)
    shards = list_shards(storage, only)
    task = partial(_index_shard, root, s3, force, names)
    found, summaries = _read_all(uri, shards, task, workers, on_shard, named=names is not None)
    if only is None:  # one shard is not the folder's manifest
        storage.write(NAME, manifest_bytes(found.statistics, summaries))
    return found


def check_data(
    uri: str,
    s3: S3Settings | None = None,
    *,
    workers: int = 1,
    on_shard: Progress = lambda done, total, shard: None,
) -> Indexed:
    """Read and decode everything and name all that is broken; writes nothing.

    Raises:
        DataError: there is no shard at the URI. (What is broken is returned, not raised.)
        TransientError: as :func:`index_data`.
    """
    root, only = locate(uri)
    storage = open_storage(root, s3)
    names = read_class_names(storage)
    shards = list_shards(storage, only)
    task = partial(_check_shard, root, s3, names)
    return _read_all(uri, shards, task, workers, on_shard, named=names is not None)[0]


def _read_all(
    uri: str,
    shards: Sequence[Entry],
    task: Callable[[Entry], _Read],
    workers: int,
    on_shard: Progress,
    *,
    named: bool,
) -> tuple[Indexed, list[ShardSummary]]:
    summaries: list[ShardSummary] = []
    problems: list[Problem] = []
    highest, shard_of_highest = -1, ""
    with Tally() as tally:
        for read in _in_order(task, shards, workers):
            summaries.append(read.summary)
            problems += read.problems[: MOST_PROBLEMS - len(problems)]
            tally.add(read.counts, len(read.problems))
            if read.counts.classes.max(initial=-1) > highest:
                highest, shard_of_highest = int(read.counts.classes.max()), read.summary.name
            on_shard(len(summaries), len(shards), read.summary.name)
        statistics = tally.statistics()
    if not named and is_beyond_all(highest, statistics.classes):
        problems.append(
            Problem(
                shard_of_highest,
                "",
                f"has the class number {highest}, and of {statistics.classes} classes in all: "
                f"correct it, or name all classes in {CLASSES}",
            )
        )
        statistics = replace(statistics, problems=statistics.problems + 1)
    return Indexed(uri, statistics, tuple(problems)), summaries


def _in_order(
    task: Callable[[Entry], _Read], shards: Sequence[Entry], workers: int
) -> Iterator[_Read]:
    """What the shards hold, in their order, read in processes that run only a little ahead."""
    workers = min(workers, len(shards))
    if workers <= 1:
        yield from map(task, shards)
        return
    pool = ProcessPoolExecutor(workers, get_context("forkserver"), initializer=_end_without_a_word)
    running: deque[Future[_Read]] = deque()
    try:
        for shard in shards:
            with _interrupts_held():  # this starts processes, and what they come from
                running.append(pool.submit(task, shard))
            if len(running) > _AHEAD * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    except BrokenProcessPool as error:
        raise TransientError(
            f"a process that read shards was killed, perhaps for memory, with {workers} of them: "
            "use fewer --workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits; processes that are started meanwhile hold it back until they say otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_without_a_word() -> None:
    """Let Ctrl-C end this process as any other program, and not with a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _index_shard(
    root: str, s3: S3Settings | None, force: bool, names: Sequence[str] | None, entry: Entry
) -> _Read:
    storage = open_storage(root, s3)
    if not force:
        try:
            known = read_index(storage, entry)
        except DataError:
            known = None  # it is damaged
        # Earlier versions are good enough for training, but knew no clips or fewer problems.
        current = known is not None and known.version == VERSION
        if known is not None and current and known.modified == entry.modified:
            return _Read.of(known, *_nameless(known, names))
    index = build_index(storage, entry)
    storage.write(entry.key + SUFFIX, index.to_bytes())
    return _Read.of(index, *_nameless(index, names))


def _check_shard(
    root: str, s3: S3Settings | None, names: Sequence[str] | None, entry: Entry
) -> _Read:
    storage = open_storage(root, s3)
    index = build_index(storage, entry, on_image=decode, on_clip=check_clip)
    return _Read.of(index, *_nameless(index, names), *_stale(storage, entry, index))


def _nameless(index: ShardIndex, names: Sequence[str] | None) -> Iterator[Problem]:
    """Samples whose class number has no name among those of ``classes.json``."""
    if names is None:
        return
    for row in np.flatnonzero(index.records["class_index"] >= len(names)):
        number = index.records["class_index"][row]
        reason = f"is {number}, but {CLASSES} names the classes 0 to {len(names) - 1}"
        yield Problem(index.shard, f"{index.keys[row]}.cls", reason)


def _stale(storage: Storage, entry: Entry, index: ShardIndex) -> Iterator[Problem]:
    """That the index beside a shard is not the shard's, if there is one."""
    try:
        known = storage.read(entry.key + SUFFIX)
        beside = ShardIndex.from_bytes(known, entry.key, storage.url(entry.key + SUFFIX))
    except MissingKeyError:
        return
    except DataError as error:
        yield Problem(entry.key, "", str(error))
        return
    if beside.digest() != index.digest():
        reason = "has changed since it was indexed: run 'florencectl data index' again"
        yield Problem(entry.key, "", reason)
