"""Data sets with boxes as one source of an import: shared images once, with everybody's boxes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from florence.config.storage import S3Settings
from florence.data.boxes import AnnotatedImage, annotated_image
from florence.data.flod.merge import merged, renamed, renamed_vocabulary
from florence.data.flod.names import NameTable, read_names, shipped_names
from florence.data.flod.settings import Flod
from florence.data.importing.once import shards_of
from florence.data.importing.rows import BrokenRow, Row, Source
from florence.data.shards import BrokenSampleError, Need, ShardSet
from florence.data.vocabularies import Vocabulary, read_vocabularies
from florence.errors import ConfigurationError, DataError

_DIGEST = 16


@dataclass(frozen=True)
class _Set:
    """One data set: what it is called here, its shards, and its vocabularies by their names here.

    ``called`` gives the names here of the sources that its records name.
    """

    name: str
    shards: ShardSet
    vocabularies: Mapping[str, Vocabulary]
    called: Mapping[str, str]

    def record(self, i: int, names: NameTable) -> AnnotatedImage:
        """Raises ``ValueError`` when there is none, and ``BrokenSampleError``."""
        image = annotated_image(self.shards.read_meta(i))
        return renamed(image, self.called.get(image.source, self.name), names)


@dataclass
class _Shared:
    """Which samples show the same image: of the first of them the others, and all others."""

    others: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=dict)
    later: set[tuple[int, int]] = field(default_factory=set)


def open_flod(sources: Sequence[str], settings: Flod, s3: S3Settings | None) -> Source:
    """Open data sets, each ``NAME=URI``; images are told apart by their bytes.

    Raises:
        ConfigurationError: a source is not written so, or a name comes twice.
        DataError: a source is missing, or is of images without boxes.
    """
    table = shipped_names() if settings.names is None else read_names(settings.names, s3)
    named = [_named(source) for source in sources]
    if len({name for name, _ in named}) < len(named):
        raise ConfigurationError("source: a name comes twice: give each data set its own")
    sets = [_open(name, uri, table, s3) for name, uri in named]

    def rows() -> Iterator[Row | BrokenRow]:
        shared = _shared(sets)
        for number, data in enumerate(sets):
            for i in range(len(data.shards)):
                if (number, i) not in shared.later:
                    yield _row(sets, (number, i), shared, table)

    return Source(
        name="flod",
        identity=[[[data.name, data.shards.fingerprint] for data in sets], table.entries()],
        rows=rows,
        vocabularies=lambda: {
            name: vocabulary for data in sets for name, vocabulary in data.vocabularies.items()
        },
    )


def _named(source: str) -> tuple[str, str]:
    name, mark, uri = source.partition("=")
    if not mark or not uri or not name or "+" in name or "/" in name:
        raise ConfigurationError(f"source: '{source}' is not NAME=URI, such as coco=shards/coco")
    return name, uri


def _open(name: str, uri: str, table: NameTable, s3: S3Settings | None) -> _Set:
    shards = ShardSet.open(shards_of(uri, s3=s3), s3, need=Need.IMAGE)
    found = read_vocabularies(shards.storage)
    if found is None:
        raise DataError(
            f"{uri} has no vocabularies.json: import images with boxes first, for instance with "
            "'florencectl data import coco'"
        )
    # Data that was merged before keeps the names of its parts.
    called = {inner: name if len(found) == 1 else inner for inner in found}
    vocabularies = {
        called[inner]: renamed_vocabulary(vocabulary, called[inner], table)
        for inner, vocabulary in found.items()
    }
    return _Set(name, shards, vocabularies, called)


def _shared(sets: Sequence[_Set]) -> _Shared:
    """Find equal images by their digests, 16 bytes each in memory."""
    digests = np.concatenate([_digests(data.shards) for data in sets])
    owners = np.concatenate([np.full(len(data.shards), n) for n, data in enumerate(sets)])
    inside = np.concatenate([np.arange(len(data.shards)) for data in sets])
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    shared = _Shared()
    starts = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    first: tuple[int, int] | None = None
    for place in starts.tolist():
        one, other = order[place - 1], order[place]
        if first is None or (int(owners[one]), int(inside[one])) not in shared.later:
            first = int(owners[one]), int(inside[one])
        here = int(owners[other]), int(inside[other])
        shared.others.setdefault(first, []).append(here)
        shared.later.add(here)
    return shared


def _digests(shards: ShardSet) -> NDArray[np.bytes_]:
    digests = np.zeros(len(shards), f"V{_DIGEST}")
    for i in range(len(shards)):
        said = shards.read_meta(i).get("sha256")
        if isinstance(said, str) and len(said) == 64:
            value = bytes.fromhex(said)
        else:
            try:
                value = hashlib.sha256(shards.read(i).image_bytes).digest()
            except BrokenSampleError:
                value = hashlib.sha256(f"{shards.uri} {i}".encode()).digest()  # equal to no other
        digests[i] = np.void(value[:_DIGEST])
    return digests.view(f"S{_DIGEST}") if len(digests) else digests.astype(f"S{_DIGEST}")


def _row(
    sets: Sequence[_Set], first: tuple[int, int], shared: _Shared, names: NameTable
) -> Row | BrokenRow:
    data, i = sets[first[0]], first[1]
    where = f"{data.shards.shard_of(i)}:{data.shards.key(i)}"
    try:
        sample = data.shards.read(i)
        places = [first, *shared.others.get(first, ())]
        record = merged([sets[number].record(row, names) for number, row in places])
    except (BrokenSampleError, ValueError) as error:
        return BrokenRow(where, f"{error}: import that data set again")
    meta = record.wire() | {"source": record.source, "from": f"{data.name}:{data.shards.key(i)}"}
    return Row(where=where, image=sample.image_bytes, meta=meta)
