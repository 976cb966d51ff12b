"""A set of shards as one indexed sequence of samples."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Lock
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray

from florence.config import CaptionLabel, Text, TextIdentity
from florence.config.storage import S3Settings
from florence.data.builtin import resolve
from florence.data.index import MEDIA_TYPES, ShardIndex
from florence.data.locations import locate
from florence.data.manifest import WORD_BINS, ShardSummary, read_index
from florence.data.members import TEXT_CAPTION, TEXT_NONE, parse_json
from florence.data.opening import Share, alone, open_shards
from florence.errors import DataError
from florence.storage import Entry, Storage, open_storage
from florence.text.normalisation import is_short

INDEX_BYTES = 256 << 20
"""What the open indexes of a process may take: enough for the 128 shards that a window touches."""


class Need(StrEnum):
    """What a sample must have to be one of the set."""

    TEXT = "text"  # an image and a text
    CLASS = "class"  # an image and a class number
    IMAGE = "image"
    VIDEO = "video"  # a clip


class BrokenSampleError(ValueError):
    """A sample that cannot be used; ``shard`` and ``key`` say which."""

    def __init__(self, shard: str, key: str, reason: str) -> None:
        super().__init__(f"{shard}:{key}: {reason}")
        self.shard, self.key, self.reason = shard, key, reason


@dataclass(frozen=True)
class Place:
    """Where a sample's bytes are: a run in a shard."""

    shard: int
    offset: int
    length: int


@dataclass(frozen=True)
class Sample:
    """One sample as stored.

    ``media_bytes`` is the file of the image or clip and ``media_type`` its extension, ``image``
    when an old index does not know which; ``label_id`` is y of the triplet (x, t, y), ``text`` the
    raw description; ``class_index`` is None without a ``.cls`` number, ``short`` says whether the
    text gets a template.
    """

    key: str
    media_bytes: bytes
    media_type: str
    text: str
    label_id: int
    class_index: int | None
    short: bool
    meta_bytes: bytes

    @property
    def image_bytes(self) -> bytes:
        """The media of a set of images: of one that was not opened for clips."""
        return self.media_bytes

    @property
    def meta(self) -> dict[str, Any]:
        """The JSON member; empty when there is none or it is broken."""
        try:
            return parse_json(self.meta_bytes)
        except ValueError:
            return {}


@dataclass(frozen=True)
class _Selected:
    """The samples of a shard that are in the set."""

    records: NDArray[Any]
    keys: tuple[str, ...]


def _remembering(select: Callable[[int], _Selected]) -> Callable[[int], _Selected]:
    """``select`` with what it returned last, by bytes and not by number: shards differ."""
    cache: LRUCache[int, _Selected] = LRUCache(INDEX_BYTES, getsizeof=_size_of)
    return cached(cache, lock=Lock())(select)


def _size_of(selected: _Selected) -> int:
    return selected.records.nbytes + sum(map(sys.getsizeof, selected.keys))


class ShardSet:
    """The samples of a set of shards, in shard order, as ``len`` and ``read(i)``.

    Only a few numbers per shard are held; a shard's index is read when a sample of it is. May be
    forked or pickled into other processes.

    Attributes:
        class_names: the names of the classes 0, 1, … from the folder's ``classes.json``, or None.
    """

    def __init__(
        self,
        uri: str,
        storage: Storage,
        summaries: list[ShardSummary],
        indexes: dict[str, ShardIndex],
        *,
        need: Need,
        text: Text,
        exclude_short: bool,
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        self.uri = uri
        self.storage = storage
        self.need = need
        self.text = text
        self.exclude_short = exclude_short
        self.class_names = class_names
        self.summaries = summaries
        self._indexes = indexes
        self._selected = _remembering(self._select)
        self._ends = np.cumsum([self._count(n) for n in range(len(summaries))], dtype=np.int64)
        if not len(self):
            raise DataError(f"{uri} holds no sample that can be used: {self._why_empty()}")

    @staticmethod
    def open(
        uri: str,
        s3: S3Settings | None = None,
        *,
        need: Need = Need.TEXT,
        text: Text | None = None,
        exclude_short: bool = False,
        share: Share = alone,
        allow_unindexed: bool = True,
        on_shard: Callable[[int, int], None] = lambda done, total: None,
    ) -> ShardSet:
        """Open the shards at a URI.

        Shards without a current index are read once now and indexed in memory, with a warning.

        Args:
            uri: a folder, ``s3://bucket/prefix``, one ``.tar`` of either, or ``builtin:…``.
            s3: where ``s3://`` is.
            need: leave out samples that lack this.
            text: how labels are made of texts, and which texts are short.
            exclude_short: leave out samples whose text is short.
            share: how the processes that open the set together read it once; see :class:`Share`.
                Each must call ``open`` with the same arguments.
            allow_unindexed: whether shards without a current index are read. Say no where that
                would keep several machines waiting.
            on_shard: called as (shards read, shards to read) for each shard or index that had to be
                read because the manifest does not describe it; in every process.

        Raises:
            DataError: no shards, no sample left, or no index where one is asked for; names the URI.
        """
        root, only = locate(resolve(uri))  # in every process: builtin data is made on each machine
        storage = open_storage(root, s3)
        opened = open_shards(
            uri,
            storage,
            only,
            share=share,
            allow_unindexed=allow_unindexed,
            on_shard=on_shard,
        )
        return ShardSet(
            uri,
            storage,
            opened.summaries,
            opened.indexes,
            need=need,
            text=text or Text(),
            exclude_short=exclude_short,
            class_names=opened.class_names,
        )

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_selected"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._selected = _remembering(self._select)

    @property
    def size(self) -> int:
        """The size of all shards together."""
        return sum(summary.size for summary in self.summaries)

    @property
    def fingerprint(self) -> str:
        """A digest of which samples are in the set and in which order; files may have moved."""
        digest = hashlib.blake2b(digest_size=16)
        for summary in self.summaries:
            digest.update(f"{summary.name} {summary.index_digest}\n".encode())
        digest.update(f"{self.need} {self.exclude_short} {self.text.short_words}".encode())
        return digest.hexdigest()

    def shard_of(self, i: int) -> str:
        """The shard that sample ``i`` is in, as people know it."""
        return self.storage.url(self.summaries[self._shard(i)].name)

    def place(self, i: int) -> Place:
        """Where the bytes of sample ``i`` are."""
        shard, row = self._row(i)
        record = self._selected(shard).records[row]
        return Place(shard, int(record["offset"]), int(record["length"]))

    def read_place(self, place: Place) -> bytes:
        """The bytes at a place; fewer when the shard has become shorter."""
        name = self.summaries[place.shard].name
        return self.storage.read_range(name, place.offset, place.length)

    def read(self, i: int) -> Sample:
        """Read sample ``i``. Raises :class:`BrokenSampleError` and the storage's errors."""
        return self.parse(i, self.read_place(self.place(i)))

    def parse(self, i: int, run: bytes) -> Sample:
        """Sample ``i`` from the bytes at its place.

        Raises:
            BrokenSampleError: they are not the bytes that were indexed.
        """
        shard, row = self._row(i)
        selected = self._selected(shard)
        record, key, name = selected.records[row], selected.keys[row], self.summaries[shard].name
        media = _part(run, record, "media")
        text = _part(run, record, "text")
        if zlib.crc32(text, zlib.crc32(media)) != record["crc"]:
            raise BrokenSampleError(
                name,
                key,
                "its bytes are not those that were indexed: the shard changed or is damaged",
            )
        words, class_index = int(record["words"]), int(record["class_index"])
        return Sample(
            key=f"{name.removesuffix('.tar')}/{key}",
            media_bytes=media,
            media_type=MEDIA_TYPES[record["media_type"]],
            text=_decoded(text, int(record["text_source"])),
            label_id=self._label(i, record),
            class_index=class_index if class_index >= 0 else None,
            short=is_short(words, self.text.short_words),
            meta_bytes=_part(run, record, "json"),
        )

    def read_meta(self, i: int) -> dict[str, Any]:
        """The JSON member of sample ``i`` alone; empty when there is none or it is broken."""
        shard, row = self._row(i)
        record = self._selected(shard).records[row]
        start, length = int(record["offset"]) + int(record["json"]), int(record["json_length"])
        try:
            return parse_json(self.read_place(Place(shard, start, length))) if length else {}
        except ValueError:
            return {}

    def read_meta_bytes(self, i: int) -> bytes:
        """The JSON member of sample ``i`` alone, as it is; empty when there is none."""
        shard, row = self._row(i)
        record = self._selected(shard).records[row]
        if not record["json_length"]:
            return b""
        start = int(record["offset"]) + int(record["json"])
        return self.storage.read_range(
            self.summaries[shard].name, start, int(record["json_length"])
        )

    def key(self, i: int) -> str:
        """The key of sample ``i``: its shard and its name in there."""
        shard, row = self._row(i)
        name = self.summaries[shard].name.removesuffix(".tar")
        return f"{name}/{self._selected(shard).keys[row]}"

    def class_indices(self) -> NDArray[np.int64]:
        """The class of every sample, -1 where there is none; reads every index."""
        parts = [self._selected(n).records["class_index"] for n in range(len(self.summaries))]
        return np.concatenate(parts).astype(np.int64)

    def _label(self, i: int, record: Any) -> int:
        if self.text.label is CaptionLabel.UNIQUE:
            return i  # in the first sample's place if it is drawn twice: it is the same pair
        exact = self.text.identity is TextIdentity.EXACT
        return int(record["exact_label" if exact else "label"])

    def _shard(self, i: int) -> int:
        count = ShardSet.__len__(self)
        if not 0 <= i < count:
            raise IndexError(f"sample {i} of {count}")
        return int(np.searchsorted(self._ends, i, side="right"))

    def _row(self, i: int) -> tuple[int, int]:
        shard = self._shard(i)
        return shard, i - (int(self._ends[shard - 1]) if shard else 0)

    def _count(self, shard: int) -> int:
        summary = self.summaries[shard]
        if self.need is Need.TEXT:
            first = self.text.short_words + 1 if self.exclude_short else 1
            if first <= WORD_BINS:
                return sum(summary.word_counts[first:])
        elif not self.exclude_short:
            if self.need is Need.CLASS:
                return summary.labelled
            return summary.clips if self.need is Need.VIDEO else summary.images
        return len(self._selected(shard).records)

    def _select(self, shard: int) -> _Selected:
        index = self._index(shard)
        records = index.records
        is_video = index.is_video
        chosen = is_video if self.need is Need.VIDEO else ~is_video
        if self.need is Need.TEXT:
            chosen &= records["words"] > 0
        elif self.need is Need.CLASS:
            chosen &= records["class_index"] >= 0
        if self.exclude_short:
            chosen &= (records["words"] == 0) | (records["words"] > self.text.short_words)
        rows = np.flatnonzero(chosen)
        return _Selected(records[rows], tuple(index.keys[row] for row in rows))

    def _index(self, shard: int) -> ShardIndex:
        summary = self.summaries[shard]
        if summary.name in self._indexes:
            return self._indexes[summary.name]
        index = read_index(self.storage, Entry(summary.name, summary.size, 0))
        if index is None or index.digest() != summary.index_digest:
            raise DataError(
                f"the index of {self.storage.url(summary.name)} is not the one in the manifest: "
                "run 'florencectl data index' again"
            )
        return index

    def _why_empty(self) -> str:
        if self.need is Need.VIDEO:
            return "there is no clip in the shards"
        if not any(summary.images for summary in self.summaries):
            return "there is no image in the shards"
        if self.need is Need.CLASS:
            return "no image has a .cls member with a class number"
        if self.exclude_short and any(sum(s.word_counts[1:]) for s in self.summaries):
            return "all texts are short and excludeAugmented leaves those out"
        return "no image has a text (.txt, or caption in .json)"


def _part(run: bytes, record: Any, name: str) -> bytes:
    start = int(record[name])
    return run[start : start + int(record[f"{name}_length"])]


def _decoded(data: bytes, source: int) -> str:
    if source == TEXT_NONE:
        return ""
    if source == TEXT_CAPTION:
        return str(json.loads(data)["caption"])
    return data.decode().strip()
