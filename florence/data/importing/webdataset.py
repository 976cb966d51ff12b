"""WebDataset shards as a source: every member is copied, only the packing changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from florence.config.storage import S3Settings
from florence.data.archive import VIDEO_EXTENSIONS, Archive
from florence.data.builtin import resolve
from florence.data.importing.rows import BrokenRow, Row, Source, fingerprint
from florence.data.importing.settings import WebDataset
from florence.data.locations import list_shards, locate
from florence.errors import ConfigurationError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

CLASSES = "classes.json"


def open_webdataset(sources: Sequence[str], settings: WebDataset, s3: S3Settings | None) -> Source:
    """Open shards; the class names of the sources must be the same.

    Raises:
        DataError: a source has no shards.
        ConfigurationError: sources number their classes differently.
    """
    del settings  # has nothing of its own
    opened: list[tuple[Storage, list[Entry]]] = []
    names: dict[str, tuple[str, ...] | None] = {}
    for uri in sources:
        root, only = locate(resolve(uri))
        storage = open_storage(root, s3)
        opened.append((storage, list_shards(storage, only)))
        names[uri] = _class_names(storage)
    if len(set(names.values())) > 1:
        first, other = next(uri for uri in names if names[uri] != names[sources[0]]), sources[0]
        raise ConfigurationError(
            f"{first} and {other} have different {CLASSES}: import them to separate folders"
        )

    def rows() -> Iterator[Row | BrokenRow]:
        for storage, entries in opened:
            for entry in entries:
                yield from _rows(storage, entry)

    return Source(
        name=sources[0].rstrip("/").rpartition("/")[2].removesuffix(".tar"),
        identity=[fingerprint(entries) for _, entries in opened],
        rows=rows,
        class_names=names[sources[0]],
    )


def _rows(storage: Storage, entry: Entry) -> Iterator[Row | BrokenRow]:
    archive = Archive(storage, entry.key, entry.size)
    for sample in archive.samples():
        where = f"{storage.url(entry.key)}:{sample.key}"
        media = sample.media_type
        if media is None:
            yield BrokenRow(where, "has no image and no video: remove it")
            continue
        # Now, while they are in the archive's read-ahead.
        members = {ext: archive.read(member) for ext, member in sample.members.items()}
        is_video = media in VIDEO_EXTENSIONS
        yield Row(
            where=where,
            source=f"{sample.key}.{media}" if is_video else "",
            image=None if is_video else members.pop(media),
            video=members.pop(media) if is_video else None,
            files=members,
            meta=None,
        )
    for problem in archive.problems:
        yield BrokenRow(
            f"{storage.url(entry.key)}:{problem.member}",
            f"{problem.reason}: mend or replace the shard",
        )


def _class_names(storage: Storage) -> tuple[str, ...] | None:
    try:
        return tuple(json.loads(storage.read(CLASSES)))
    except MissingKeyError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{storage.url(CLASSES)} is no list of names: mend it") from error
