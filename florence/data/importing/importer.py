"""The import itself: rows of any format into shards, exact to the byte and safe to kill.

The same sources and settings give the same shards. Until all are written the folder holds
``unfinished.json`` and is refused as data; the same command then goes on after the last whole
shard. Another command (other sources or settings) starts over, and so does one after broken rows
stopped it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from florence.config.base import Settings
from florence.config.storage import S3Settings
from florence.data.draft import Draft, digest_of
from florence.data.importing.registry import ImportFormat
from florence.data.importing.rows import BrokenRow, Source
from florence.data.importing.samples import Made, make_sample
from florence.data.importing.settings import ImportSettings
from florence.data.index import SUFFIX
from florence.data.indexing import index_data
from florence.data.manifest import NAME as MANIFEST
from florence.data.ordered_map import map_in_threads
from florence.data.shard_writer import ShardWriter
from florence.data.vocabularies import NAME as VOCABULARIES
from florence.data.vocabularies import all_names, vocabularies_bytes
from florence.errors import ConfigurationError, DataError
from florence.storage import Storage, open_storage

RECORD = "import.json"
CLASSES = "classes.json"
PREFIX = "shard"
VERSION = 1
"""A part of every digest: raise it when the same source would be written differently."""

_NAMED = 1_000
_JUDGE_AFTER = 10_000

OnShard = Callable[[str, int, int], None]
"""Called when a shard is stored, with its name, and the rows and samples so far."""


@dataclass(frozen=True)
class Imported:
    """The outcome of an import.

    Attributes:
        uri: the folder of shards.
        rows, samples, broken: counts; rows = samples + broken.
        classes: how many class names were written.
        broken_rows: the first thousand of the broken rows and boxes, each in a line.
        boxes: of all samples.
        broken_boxes: boxes that were left out of samples.
        known: whether it had been imported before and nothing was written.
    """

    uri: str
    rows: int
    samples: int
    broken: int
    classes: int
    broken_rows: tuple[str, ...]
    known: bool = False
    boxes: int = 0
    broken_boxes: int = 0

    def wire(self) -> dict[str, Any]:
        """The outcome as JSON values; boxes only where there are some."""
        boxes = {"boxes": self.boxes, "brokenBoxes": self.broken_boxes}
        return {
            "uri": self.uri,
            "rows": self.rows,
            "samples": self.samples,
            "classes": self.classes,
            "broken": self.broken,
            **(boxes if self.boxes or self.broken_boxes else {}),
            "brokenRows": list(self.broken_rows),
        }


class _Ledger:
    """How far the rows have been read, and which were broken."""

    def __init__(self, state: dict[str, Any], settings: ImportSettings) -> None:
        self.rows: int = state.get("rows", 0)
        self.samples: int = state.get("samples", 0)
        self.shards: int = state.get("shards", 0)
        self.broken: int = state.get("broken", 0)
        self.boxes: int = state.get("boxes", 0)
        self.broken_boxes: int = state.get("brokenBoxes", 0)
        self.named: list[str] = list(state.get("brokenRows", ()))
        self.classes = 0
        self._settings = settings

    def wire(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "samples": self.samples,
            "shards": self.shards,
            "broken": self.broken,
            "boxes": self.boxes,
            "brokenBoxes": self.broken_boxes,
            "brokenRows": self.named,
        }

    def note(self, row: BrokenRow) -> None:
        """Count a broken row; raises :class:`DataError` when there are too many."""
        self._name(row)
        self.broken += 1
        if self.rows >= _JUDGE_AFTER:
            self.judge()

    def add(self, made: Made) -> None:
        """Count a sample and its boxes; raises :class:`DataError` when too many are broken."""
        self.rows += 1
        self.samples += 1
        self.boxes += made.boxes
        self.broken_boxes += len(made.broken_boxes)
        for box in made.broken_boxes:
            self._name(box)
        if made.broken_boxes and self.boxes + self.broken_boxes >= _JUDGE_AFTER:
            self.judge()

    def _name(self, row: BrokenRow) -> None:
        if self._settings.strict:
            raise DataError(f"{row} (strict stops at the first broken row)")
        if len(self.named) < _NAMED:
            self.named.append(str(row))

    def judge(self) -> None:
        """Raises :class:`DataError` when more rows or boxes are broken than may be."""
        allowed = self._settings.max_broken_fraction
        boxes = self.boxes + self.broken_boxes
        for what, broken, count in (
            ("rows", self.broken, self.rows),
            ("boxes", self.broken_boxes, boxes),
        ):
            if broken > allowed * count:
                raise DataError(
                    f"{broken} of {count} {what} are broken, more than maxBrokenFraction="
                    f"{allowed:g} allows; the first: {self.named[0]}"
                )


def import_data(
    kind: ImportFormat,
    sources: Sequence[str],
    out: str,
    settings: ImportSettings | None = None,
    s3: S3Settings | None = None,
    *,
    processes: int = 1,
    on_shard: OnShard = lambda name, rows, samples: None,
) -> Imported:
    """Write sources of a format as shards with index, manifest and ``classes.json``.

    Args:
        kind: from :func:`~florence.data.importing.registry.import_format`.
        sources: files or folders, local or ``s3://``.
        out: folder or ``s3://`` prefix; empty, or with an unfinished import of ours.
        settings: of the format's model; its defaults when None.
        s3: where ``s3://`` is.
        processes: that index the shards at the end.
        on_shard: told of every shard.

    Raises:
        ConfigurationError: settings contradict the source, or ``out`` holds something else.
        DataError: a source is missing or unusable, or too many rows are broken.
        TransientError: the storage gave up; the same call goes on where this one stopped.
    """
    settings = settings or kind.settings()
    source: Source = kind.open()(list(sources), settings, s3)
    storage = open_storage(out, s3)
    _refuse_inside(sources, storage)
    draft = Draft.begin(
        storage,
        digest=import_digest(kind, source, settings),
        record=RECORD,
        made=(".tar", SUFFIX, CLASSES, MANIFEST, RECORD, VOCABULARIES),
    )
    if draft.finished is None:
        try:
            ledger = _write(draft, source, settings, on_shard)
        except DataError:
            draft.start_over()  # by then the rows may have been mended
            raise
        content = _record(kind, sources, settings, ledger)
        draft.finish(RECORD, content)
    else:
        content = draft.finished
    index_data(out, s3, workers=processes)
    return Imported(
        uri=out,
        rows=content["rows"],
        samples=content["samples"],
        broken=content["broken"],
        classes=content["classes"],
        broken_rows=tuple(content["brokenRows"]),
        known=draft.finished is not None,
        boxes=content.get("boxes", 0),
        broken_boxes=content.get("brokenBoxes", 0),
    )


def import_digest(kind: ImportFormat, source: Source, settings: Settings) -> str:
    """Stands for everything that the shards depend on."""
    assert isinstance(settings, ImportSettings)
    return digest_of(VERSION, kind.name, settings.identity(), source.identity)


def _write(draft: Draft, source: Source, settings: ImportSettings, on_shard: OnShard) -> _Ledger:
    ledger = _Ledger(draft.state, settings)

    def stored(name: str, samples: int) -> None:
        ledger.shards += 1
        draft.save(ledger.wire())
        on_shard(name, ledger.rows, ledger.samples)

    class_names = source.class_names
    if source.vocabularies is not None:
        vocabularies = source.vocabularies()
        draft.storage.write(VOCABULARIES, vocabularies_bytes(vocabularies))
        class_names = all_names(vocabularies)
    if class_names is not None:
        names = json.dumps(class_names, ensure_ascii=False, indent=1) + "\n"
        draft.storage.write(CLASSES, names.encode("utf-8", "backslashreplace"))
    ledger.classes = len(class_names or ())
    with ShardWriter(
        draft.storage,
        PREFIX,
        samples=settings.samples_per_shard,
        size=settings.bytes_per_shard,
        first=ledger.shards,
        on_shard=stored,
    ) as writer:
        rows = islice(source.rows(), ledger.rows, None)
        make = partial(make_sample, settings=settings)
        for made in map_in_threads(make, rows, settings.workers):
            if isinstance(made, BrokenRow):
                ledger.rows += 1
                ledger.note(made)
                continue
            # First, so that a shard stored to make room is journalled without this row.
            writer.add(f"{ledger.rows:09d}", made.members)
            ledger.add(made)
    ledger.judge()
    if not ledger.samples:
        raise DataError(f"{draft.storage.uri}: the sources hold no row: check the path")
    return ledger


def _record(
    kind: ImportFormat,
    sources: Sequence[str],
    settings: ImportSettings,
    ledger: _Ledger,
) -> dict[str, Any]:
    return {
        "format": kind.name,
        "sources": list(sources),
        "settings": settings.wire(),
        "classes": ledger.classes,
        **ledger.wire(),
    }


def _refuse_inside(sources: Sequence[str], storage: Storage) -> None:
    """A result inside its source would be its own source the next time."""
    for uri in sources:
        root = uri if "://" in uri else os.path.abspath(os.path.expanduser(uri))
        if f"{storage.uri}/".startswith(root.rstrip("/") + "/"):
            raise ConfigurationError(
                f"{storage.uri} lies inside its source {uri}: choose a folder beside it"
            )


def named(broken: Sequence[str], count: int) -> Iterator[str]:
    """The first ``count`` lines, and one that says how many more there are."""
    yield from broken[:count]
    if len(broken) > count:
        yield f"… and {len(broken) - count} more in {RECORD}"
