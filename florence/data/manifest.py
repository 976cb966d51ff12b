"""``manifest.json``: what a folder of shards holds, and the statistics of science.md, section 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from florence.config.storage import S3Settings
from florence.data.archive import Problem
from florence.data.index import SUFFIX, ShardIndex, build_index
from florence.data.locations import list_shards, locate
from florence.errors import DataError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

FORMAT = "florence-manifest"
VERSION = 1
NAME = "manifest.json"
WORD_BINS = 16


@dataclass(frozen=True)
class ShardSummary:
    """What the order needs to know of a shard without reading its index.

    ``word_counts[w]`` samples have a text of ``w`` words, the last bin ``WORD_BINS`` words or more.
    """

    name: str
    size: int
    images: int
    labelled: int
    word_counts: tuple[int, ...]
    index_digest: str

    @staticmethod
    def of(index: ShardIndex) -> ShardSummary:
        """The summary of an index."""
        words = np.minimum(index.records["words"], WORD_BINS)
        return ShardSummary(
            name=index.shard,
            size=index.size,
            images=len(index.records),
            labelled=int((index.records["class_index"] >= 0).sum()),
            word_counts=tuple(np.bincount(words, minlength=WORD_BINS + 1).tolist()),
            index_digest=index_digest(index),
        )

    def wire(self) -> dict[str, Any]:
        """The summary as JSON values."""
        return {
            "name": self.name,
            "size": self.size,
            "images": self.images,
            "labelled": self.labelled,
            "wordCounts": list(self.word_counts),
            "indexDigest": self.index_digest,
        }


def index_digest(index: ShardIndex) -> str:
    """BLAKE2b over where and what every sample is; it does not change when files are copied."""
    digest = hashlib.blake2b(index.records.tobytes(), digest_size=16)
    digest.update("\n".join(index.keys).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Statistics:
    """The numbers by which the paper describes its data (FLD-900M), for any corpus.

    Texts are compared in their canonical form; ``tokens`` counts byte pairs without start and end.
    """

    images: int
    texts: int
    unique_texts: int
    pairs_with_shared_text: int
    unique_queries: int
    tokens: int
    short_texts: int
    labelled: int
    classes: int
    shards: int
    bytes: int
    problems: int

    @staticmethod
    def of(indexes: Sequence[ShardIndex], *, short_words: int = 2) -> Statistics:
        """Count over all shards; ``short_words`` as in ``text.shortWords``."""
        if not indexes:
            return Statistics(*[0] * len(fields(Statistics)))
        records = np.concatenate([index.records for index in indexes])
        texts = records[records["words"] > 0]
        _, copies = np.unique(texts["label"], return_counts=True)
        classes = records["class_index"][records["class_index"] >= 0]
        return Statistics(
            images=len(records),
            texts=len(texts),
            unique_texts=len(copies),
            pairs_with_shared_text=int(copies[copies > 1].sum()),
            unique_queries=len(np.unique(records["query"][records["query"] != 0])),
            tokens=int(texts["tokens"].sum(dtype=np.int64)),
            short_texts=int((texts["words"] <= short_words).sum()),
            labelled=len(classes),
            classes=len(np.unique(classes)),
            shards=len(indexes),
            bytes=sum(index.size for index in indexes),
            problems=sum(len(index.problems) for index in indexes),
        )

    def wire(self) -> dict[str, int]:
        """The statistics under their camelCase names."""
        return {
            "images": self.images,
            "texts": self.texts,
            "uniqueTexts": self.unique_texts,
            "pairsWithSharedText": self.pairs_with_shared_text,
            "uniqueQueries": self.unique_queries,
            "tokens": self.tokens,
            "shortTexts": self.short_texts,
            "labelled": self.labelled,
            "classes": self.classes,
            "shards": self.shards,
            "bytes": self.bytes,
            "problems": self.problems,
        }


@dataclass(frozen=True)
class Indexed:
    """The outcome of indexing: what the data holds, and what of it cannot be used."""

    uri: str
    statistics: Statistics
    problems: tuple[Problem, ...]


Progress = Callable[[int, int, str], None]
"""Called as (shards done, shards in all, the shard just done)."""


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
    """
    root, only, shards = _storage_and_shards(uri, s3)
    task = partial(_index_shard, root, s3, force)
    indexes: list[ShardIndex] = []
    with _executor(workers, len(shards)) as executor:
        done: Iterable[ShardIndex] = executor.map(task, shards) if executor else map(task, shards)
        for index in done:
            indexes.append(index)
            on_shard(len(indexes), len(shards), index.shard)
    statistics = Statistics.of(indexes)
    if only is None:  # one shard is not the folder's manifest
        open_storage(root, s3).write(NAME, _manifest(statistics, indexes))
    return Indexed(uri, statistics, tuple(p for index in indexes for p in index.problems))


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
    """
    root, _, shards = _storage_and_shards(uri, s3)
    indexes: list[ShardIndex] = []
    stale: list[Problem] = []
    with _executor(workers, len(shards)) as executor:
        task = partial(_check_shard, root, s3)
        done = executor.map(task, shards) if executor else map(task, shards)
        for index, extra in done:
            indexes.append(index)
            stale += extra
            on_shard(len(indexes), len(shards), index.shard)
    problems = [p for index in indexes for p in index.problems]
    return Indexed(uri, Statistics.of(indexes), (*problems, *stale))


def read_manifest(storage: Storage) -> dict[str, ShardSummary] | None:
    """What ``manifest.json`` lists by shard; None without one, or when it is another version's."""
    try:
        document = json.loads(storage.read(NAME))
    except MissingKeyError:
        return None
    except ValueError as error:
        raise DataError(
            f"{storage.url(NAME)} is not JSON: run 'florencectl data index' again"
        ) from error
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        return None
    return {
        shard["name"]: ShardSummary(
            name=shard["name"],
            size=shard["size"],
            images=shard["images"],
            labelled=shard["labelled"],
            word_counts=tuple(shard["wordCounts"]),
            index_digest=shard["indexDigest"],
        )
        for shard in document["shards"]
    }


def read_index(storage: Storage, entry: Entry) -> ShardIndex | None:
    """The index beside a shard; None when there is none or the shard's size is another by now."""
    key = entry.key + SUFFIX
    try:
        index = ShardIndex.from_bytes(storage.read(key), entry.key, storage.url(key))
    except MissingKeyError:
        return None
    return index if index.size == entry.size else None


def _manifest(statistics: Statistics, indexes: Sequence[ShardIndex]) -> bytes:
    document = {
        "format": FORMAT,
        "version": VERSION,
        "statistics": statistics.wire(),
        "shards": [ShardSummary.of(index).wire() for index in indexes],
    }
    return json.dumps(document, indent=1).encode()


def _storage_and_shards(uri: str, s3: S3Settings | None) -> tuple[str, str | None, list[Entry]]:
    root, only = locate(uri)
    return root, only, list_shards(open_storage(root, s3), only)


def _executor(workers: int, shards: int) -> Any:
    """A pool of processes, or nothing when one would do."""
    if min(workers, shards) <= 1:
        return nullcontext()
    pool: Executor = ProcessPoolExecutor(min(workers, shards), get_context("forkserver"))
    return pool


def _index_shard(root: str, s3: S3Settings | None, force: bool, entry: Entry) -> ShardIndex:
    storage = open_storage(root, s3)
    if not force:
        try:
            known = read_index(storage, entry)
        except DataError:
            known = None  # a damaged index, or another version's: write it anew
        if known is not None and known.modified == entry.modified:
            return known
    index = build_index(storage, entry)
    storage.write(entry.key + SUFFIX, index.to_bytes())
    return index


def _check_shard(
    root: str, s3: S3Settings | None, entry: Entry
) -> tuple[ShardIndex, list[Problem]]:
    from florence.data.images import decode

    storage = open_storage(root, s3)
    index = build_index(storage, entry, on_image=decode)
    try:
        known = storage.read(entry.key + SUFFIX)
    except MissingKeyError:
        return index, []
    try:
        beside = ShardIndex.from_bytes(known, entry.key, storage.url(entry.key + SUFFIX))
    except DataError as error:
        return index, [Problem(entry.key, "", str(error))]
    if index_digest(beside) != index_digest(index):
        reason = "has changed since it was indexed: run 'florencectl data index' again"
        return index, [Problem(entry.key, "", reason)]
    return index, []
