"""What a data set's shards hold, found out once however many processes want to know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from florence.config.storage import S3Settings
from florence.data.builtin import SCHEME, check_name
from florence.data.index import SUFFIX, ShardIndex, build_index, read_header
from florence.data.locations import locate, shards_among
from florence.data.manifest import ShardSummary, read_class_names, read_index, read_manifest
from florence.errors import DataError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

_LOG = logging.getLogger(__name__)
_HEADER_BYTES = 64 << 10
_READERS = 16

T = TypeVar("T")


class Share(Protocol):
    """Has one of several processes compute something for all of them.

    It is a collective: each process calls it equally often and in the same order. ``make`` runs in
    one of them, the first. Every process gets what it returned (pickled in between), or raises the
    error it raised: of the same class and with the same message, so that all fail alike and none
    waits. Whoever knows the processes builds it; alone, it just calls ``make``.
    """

    def __call__(self, make: Callable[[], T], /) -> T:
        """The result of ``make``, called by one process."""


def alone(make: Callable[[], T]) -> T:
    """The :class:`Share` of a single process."""
    return make()


@dataclass(frozen=True)
class OpenedShards:
    """The shards of a set; ``indexes`` has those that exist in memory only, by shard."""

    summaries: list[ShardSummary]
    indexes: dict[str, ShardIndex]
    class_names: tuple[str, ...] | None


@dataclass(frozen=True)
class _Listing:
    """The shards, and the summary of each that the manifest describes as it is now."""

    shards: list[Entry]
    known: dict[str, ShardSummary]
    class_names: tuple[str, ...] | None


def open_shards(
    uri: str,
    storage: Storage,
    only: str | None,
    *,
    share: Share = alone,
    allow_unindexed: bool = True,
    on_shard: Callable[[int, int], None] = lambda done, total: None,
) -> OpenedShards:
    """What each shard holds: from the manifest, else its index, else the shard itself.

    There is one ``share`` for the listing and one for each shard that the manifest does not
    describe, so that processes that wait do so for one shard at most. Arguments and errors are
    those of :meth:`florence.data.shards.ShardSet.open`.
    """
    listing = share(partial(_listing, storage, only))
    unknown = [entry for entry in listing.shards if entry.key not in listing.known]
    found: dict[str, ShardSummary] = dict(listing.known)
    indexes: dict[str, ShardIndex] = {}
    for done, entry in enumerate(unknown, 1):
        read = partial(_read_shard, uri, storage, entry, allow_unindexed)
        found[entry.key], index = share(read)
        if index is not None:
            indexes[entry.key] = index
        on_shard(done, len(unknown))
    if indexes:
        _LOG.warning(
            "%s: %d of %d shards had no current index and were read once to make one in memory; "
            "'florencectl data index %s' keeps it",
            storage.url(next(iter(indexes))),
            len(indexes),
            len(listing.shards),
            uri,
        )
    summaries = [found[entry.key] for entry in listing.shards]
    return OpenedShards(summaries, indexes, listing.class_names)


def _listing(storage: Storage, only: str | None) -> _Listing:
    shards = shards_among(storage, storage.list(only or ""), only)
    manifest = read_manifest(storage) or {}
    missing = sorted(set(manifest) - {entry.key for entry in shards})
    if only is None and missing:
        raise DataError(
            f"{storage.url(missing[0])} is in the manifest but not there: restore it, "
            "or run 'florencectl data index' again"
        )
    return _Listing(shards, _current(manifest, shards), read_class_names(storage))


def _current(manifest: dict[str, ShardSummary], shards: Sequence[Entry]) -> dict[str, ShardSummary]:
    known = ((entry, manifest.get(entry.key)) for entry in shards)
    return {e.key: s for e, s in known if s is not None and s.size == e.size}


def _read_shard(
    uri: str, storage: Storage, entry: Entry, allow_unindexed: bool
) -> tuple[ShardSummary, ShardIndex | None]:
    """A shard's summary, and its index when that had to be made."""
    index = read_index(storage, entry)
    if index is not None:
        return ShardSummary.of(index), None
    if not allow_unindexed:
        raise DataError(
            f"{storage.url(entry.key)} has no current index, and several machines would wait while "
            f"one reads it: run 'florencectl data index {uri}' first"
        )
    index = build_index(storage, entry)
    return ShardSummary.of(index), index


@dataclass(frozen=True)
class DataState:
    """What can be said of a data set without reading it.

    Attributes:
        uri: as given.
        exists: whether anything is there.
        shards: how many; 0 for other forms of data, such as folders of images.
        unindexed: how many shards lack a current index: a stage would read them whole.
        samples: images and clips in all shards; None when a shard has no current index.
        class_names: from ``classes.json``, if it is there.
    """

    uri: str
    exists: bool
    shards: int = 0
    unindexed: int = 0
    samples: int | None = None
    class_names: tuple[str, ...] | None = None


def describe_data(uri: str, s3: S3Settings | None = None) -> DataState:
    """Look at a data set before a job starts: one listing, the manifest, heads of other indexes.

    ``builtin:…`` data exists when its name does; it is not made.

    Raises:
        ConfigurationError: there is no such builtin data, or the URI or credentials are wrong.
        DataError: the manifest or ``classes.json`` is damaged.
        TransientError: the storage did not answer.
    """
    if uri.startswith(SCHEME):
        check_name(uri)
        return DataState(uri, exists=True)
    root, only = locate(uri)
    storage = open_storage(root, s3)
    entries = storage.list(only or "")
    keys = {entry.key for entry in entries}
    shards = [e for e in entries if e.key.endswith(".tar") and only in (None, e.key)]
    if not shards:
        return DataState(uri, exists=bool(entries))
    current = _current(read_manifest(storage) or {}, shards)
    counts: list[int | None] = [
        s.images + s.clips for name, s in current.items() if name + SUFFIX in keys
    ]
    others = [e for e in shards if e.key + SUFFIX in keys and e.key not in current]
    with ThreadPoolExecutor(_READERS) as readers:
        counts += readers.map(partial(_samples, storage), others)
    known = [count for count in counts if count is not None]
    return DataState(
        uri,
        exists=True,
        shards=len(shards),
        unindexed=len(shards) - len(known),
        samples=sum(known) if len(known) == len(shards) else None,
        class_names=read_class_names(storage),
    )


def _samples(storage: Storage, shard: Entry) -> int | None:
    """How many samples a shard's index says it has; None unless it is current."""
    key = shard.key + SUFFIX
    try:
        head = storage.read_range(key, 0, _HEADER_BYTES)
        if b"\n" in head:
            header = read_header(head, storage.url(key))
            return header.count if header.size == shard.size else None
        index = read_index(storage, shard)  # a head that lists many problems
        return None if index is None else len(index.records)
    except (DataError, MissingKeyError):
        return None
