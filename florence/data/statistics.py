"""The statistics of science.md, section 1, for corpora that are larger than memory.

Distinct texts, queries and classes are counted over 64-bit hashes. Those are kept in a buffer; when
it is full they go to 256 temporary files by their value, so that equal ones meet in one file and
each file can be counted by itself. Disk: 8 bytes a text, query and class number.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from florence.data.index import ShardIndex
from florence.errors import TransientError

PARTITIONS = 256
BUFFERED = 1 << 21
"""Hashes in memory before they go to files: 16 MiB, and twice that again while they are sorted."""

Hashes = NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """The numbers by which the paper describes its data (FLD-900M), for any corpus.

    Texts are compared in their canonical form; ``tokens`` counts byte pairs without start and end.
    """

    images: int
    clips: int
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

    def wire(self) -> dict[str, int]:
        """The statistics under their camelCase names."""
        return {
            "images": self.images,
            "clips": self.clips,
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
class ShardCounts:
    """What one shard adds: sums, and the hashes of which distinct ones are counted over all."""

    clips: int
    samples: int
    tokens: int
    short_texts: int
    bytes: int
    texts: Hashes
    queries: Hashes
    classes: Hashes

    @staticmethod
    def of(index: ShardIndex, *, short_words: int = 2) -> ShardCounts:
        """Count one shard; ``short_words`` as in ``text.shortWords``."""
        records = index.records
        texts = records[records["words"] > 0]
        return ShardCounts(
            clips=int(index.is_video.sum()),
            samples=len(records),
            tokens=int(texts["tokens"].sum(dtype=np.int64)),
            short_texts=int((texts["words"] <= short_words).sum()),
            bytes=index.size,
            texts=texts["label"].copy(),
            queries=records["query"][records["query"] != 0],
            classes=records["class_index"][records["class_index"] >= 0].astype(np.int64),
        )


class Tally:
    """Adds up shards in memory that does not grow with them.

    Use it as a context manager: its temporary files, in ``$TMPDIR``, go with it.
    """

    def __init__(self, *, buffered: int = BUFFERED) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="florence-statistics-")
        path = Path(self._folder.name)
        self._texts = UniqueCounter(path / "texts", buffered)
        self._queries = UniqueCounter(path / "queries", buffered)
        self._classes = UniqueCounter(path / "classes", buffered)
        self._shards = self._clips = self._samples = self._tokens = 0
        self._short_texts = self._bytes = self._problems = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._folder.cleanup()

    def add(self, counts: ShardCounts, problems: int) -> None:
        """Add a shard, and how many problems it has.

        Raises:
            TransientError: the temporary folder is full.
        """
        self._shards += 1
        self._clips += counts.clips
        self._samples += counts.samples
        self._tokens += counts.tokens
        self._short_texts += counts.short_texts
        self._bytes += counts.bytes
        self._problems += problems
        self._texts.add(counts.texts)
        self._queries.add(counts.queries)
        self._classes.add(counts.classes)

    def statistics(self) -> Statistics:
        """The numbers over all shards that were added."""
        unique_texts, shared = self._texts.count()
        return Statistics(
            images=self._samples - self._clips,
            clips=self._clips,
            texts=self._texts.added,
            unique_texts=unique_texts,
            pairs_with_shared_text=shared,
            unique_queries=self._queries.count()[0],
            tokens=self._tokens,
            short_texts=self._short_texts,
            labelled=self._classes.added,
            classes=self._classes.count()[0],
            shards=self._shards,
            bytes=self._bytes,
            problems=self._problems,
        )


class UniqueCounter:
    """Counts distinct 64-bit values with about ``buffered`` of them in memory.

    Args:
        folder: where the files go once the buffer is full; made then.
        buffered: values held in memory.
    """

    def __init__(self, folder: Path, buffered: int = BUFFERED) -> None:
        self.added = 0
        self._folder = folder
        self._files = [str(folder / f"{number:03d}") for number in range(PARTITIONS)]
        self._limit = buffered
        self._buffer: list[Hashes] = []
        self._held = 0

    def add(self, values: Hashes) -> None:
        """Add values, int64 ``(N,)``. Raises :class:`TransientError` when the disk is full."""
        self.added += len(values)
        self._buffer.append(values)
        self._held += len(values)
        if self._held >= self._limit:
            self._spill()

    def count(self) -> tuple[int, int]:
        """How many values are distinct, and how many are there more than once, each counted."""
        if not self._folder.exists():
            return _count(self._buffered())
        self._spill()
        parts = [_count(np.fromfile(path, np.int64)) for path in self._folder.iterdir()]
        return sum(unique for unique, _ in parts), sum(shared for _, shared in parts)

    def _buffered(self) -> Hashes:
        return np.concatenate([np.empty(0, np.int64), *self._buffer])

    def _spill(self) -> None:
        values = self._buffered()
        self._buffer, self._held = [], 0
        # Classes are small numbers, whose upper bits would not spread them; the factor is 2^64/phi.
        with np.errstate(over="ignore"):
            mixed = values.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        part = (mixed >> np.uint64(56)).astype(np.uint8)
        values = values[np.argsort(part, kind="stable")]
        ends = np.cumsum(np.bincount(part, minlength=PARTITIONS))
        try:
            self._folder.mkdir(exist_ok=True)
            for path, piece in zip(self._files, np.split(values, ends[:-1]), strict=True):
                if len(piece):
                    with open(path, "ab") as file:
                        file.write(piece.tobytes())
        except OSError as error:
            raise TransientError(
                f"{self._folder} cannot be written ({error.strerror}): free space there, "
                "or set TMPDIR to a folder with 8 bytes a text and query"
            ) from error


def _count(values: Hashes) -> tuple[int, int]:
    _, copies = np.unique(values, return_counts=True)
    return len(copies), int(copies[copies > 1].sum())
