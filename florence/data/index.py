"""The byte index of a shard, ``<shard>.idx``: where each sample's bytes are, and what its text is.

File: one line of JSON, then ``count`` records of :data:`RECORD`, then the keys, joined by newlines.
With it a sample is one ranged read, labels need no pass over the data, and a damaged or exchanged
shard is noticed: the header has the shard's size and every record a CRC of its image and text.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.config import TextIdentity
from florence.data.archive import Archive, Member, Problem, RawSample
from florence.errors import DataError
from florence.storage import Entry, Storage
from florence.text.identity import text_label, word_count
from florence.text.tokenizer import encode

FORMAT = "florence-index"
VERSION = 1
SUFFIX = ".idx"
NO_CLASS = -1
TEXT_NONE, TEXT_MEMBER, TEXT_CAPTION, TEXT_CLASS = range(4)

RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the run of bytes that holds image, text and json
        ("length", "<u4"),
        ("image", "<u4"),  # starts are relative to the run
        ("image_length", "<u4"),
        ("text", "<u4"),
        ("text_length", "<u4"),
        ("json", "<u4"),
        ("json_length", "<u4"),
        ("text_source", "<u4"),  # none, .txt, the json's caption, or the class name in .cls
        ("words", "<u4"),  # of the canonical text; 0: no text
        ("tokens", "<u4"),  # byte pairs without start and end, uncut
        ("class_index", "<i4"),
        ("label", "<i8"),  # of the canonical text
        ("exact_label", "<i8"),
        ("query", "<i8"),  # hash of the canonical query; 0: none
        ("crc", "<u4"),  # of the image's bytes followed by the text member's
    ]
)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard that have an image, in order."""

    shard: str
    size: int
    modified: float
    records: NDArray[Any]
    keys: tuple[str, ...]
    problems: tuple[Problem, ...] = ()

    def to_bytes(self) -> bytes:
        """The index as a file."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "shard": self.shard.rpartition("/")[2],
            "shardSize": self.size,
            "shardModified": self.modified,
            "count": len(self.records),
            "problems": [[p.member, p.reason] for p in self.problems],
        }
        return b"".join(
            [
                json.dumps(header).encode(),
                b"\n",
                self.records.tobytes(),
                "\n".join(self.keys).encode(),
            ]
        )

    @staticmethod
    def from_bytes(data: bytes, shard: str, url: str) -> ShardIndex:
        """Read an index file. Raises :class:`DataError` unless it is whole and of this version."""
        try:
            end = data.index(b"\n")
            header = json.loads(data[:end])
            if header["format"] != FORMAT or header["version"] != VERSION:
                raise ValueError(f"{header['format']} version {header['version']}")
            count = int(header["count"])
            records = np.frombuffer(data, RECORD, count, end + 1)
            names = data[end + 1 + records.nbytes :].decode()
            keys = tuple(names.split("\n")) if count else ()
            if len(keys) != count:
                raise ValueError("keys are missing")
            problems = tuple(Problem(shard, member, why) for member, why in header["problems"])
            size, modified = int(header["shardSize"]), float(header["shardModified"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{url} is not an index this version reads ({error}): "
                "run 'florencectl data index' again"
            ) from error
        return ShardIndex(shard, size, modified, records, keys, problems)


def build_index(
    storage: Storage,
    entry: Entry,
    *,
    on_image: Callable[[bytes], object] | None = None,
) -> ShardIndex:
    """Read a shard from front to back and index it.

    ``on_image`` is called with the bytes of every image and raises ``ValueError`` for a broken one:
    that is how ``data check`` decodes while it reads.
    """
    archive = Archive(storage, entry.key, entry.size)
    records, keys = [], []
    for sample in archive.samples():
        record = _record(archive, sample, on_image)
        if record is not None:
            records.append(record)
            keys.append(sample.key)
    return ShardIndex(
        entry.key,
        entry.size,
        entry.modified,
        np.array(records, RECORD),
        tuple(keys),
        tuple(archive.problems),
    )


def _record(
    archive: Archive, sample: RawSample, on_image: Callable[[bytes], object] | None
) -> tuple[int | float, ...] | None:
    image = sample.image
    if image is None:
        archive.note(sample.key, "the sample has no image (.jpg, .jpeg, .png or .webp)")
        return None
    name, described = image.name, sample.members.get("json")
    image_bytes = archive.read(image)
    if on_image is not None:
        try:
            on_image(image_bytes)
        except ValueError as error:
            archive.note(name, str(error))
    meta = _json(archive, described) if described else {}
    source, text_member, text, text_bytes = _text(archive, sample, meta)
    words = word_count(text)
    if not words:
        source, text = TEXT_NONE, ""
    used = [m for m in (image, text_member if source else None, described) if m is not None]
    start = min(m.offset for m in used)
    length = max(m.offset + m.size for m in used) - start
    query = meta.get("query")
    return (
        start,
        length,
        image.offset - start,
        image.size,
        *_place(text_member if source else None, start),
        *_place(described, start),
        source,
        words,
        len(encode(text)),
        _class_index(archive, sample),
        text_label(text, TextIdentity.CANONICAL),
        text_label(text, TextIdentity.EXACT),
        text_label(query) if isinstance(query, str) and word_count(query) else 0,
        zlib.crc32(text_bytes if source else b"", zlib.crc32(image_bytes)),
    )


def _place(member: Member | None, start: int) -> tuple[int, int]:
    return (member.offset - start, member.size) if member else (0, 0)


def _json(archive: Archive, member: Member) -> dict[str, Any]:
    try:
        return parse_json(archive.read(member))
    except ValueError as error:
        archive.note(member.name, str(error))
        return {}


def _text(
    archive: Archive, sample: RawSample, meta: dict[str, Any]
) -> tuple[int, Member | None, str, bytes]:
    """The first that is there: .txt, the json's caption, a class name in .cls."""
    if "txt" in sample.members:
        member = sample.members["txt"]
        data = archive.read(member)
        try:
            return TEXT_MEMBER, member, data.decode(), data
        except UnicodeDecodeError as error:
            archive.note(member.name, f"is not UTF-8: {error.reason} at byte {error.start}")
            return TEXT_NONE, None, "", b""
    if isinstance(meta.get("caption"), str):
        member = sample.members["json"]
        return TEXT_CAPTION, member, meta["caption"], archive.read(member)
    if "cls" in sample.members:
        member = sample.members["cls"]
        data = archive.read(member)
        name = data.decode(errors="replace").strip()
        if not _is_integer(name):
            return TEXT_CLASS, member, name, data
    return TEXT_NONE, None, "", b""


def _class_index(archive: Archive, sample: RawSample) -> int:
    member = sample.members.get("cls")
    if member is None:
        return NO_CLASS
    name = archive.read(member).decode(errors="replace").strip()
    if not _is_integer(name):
        return NO_CLASS  # a class name, which is a text
    index = int(name)
    if not 0 <= index < 1 << 31:
        archive.note(member.name, f"holds {name}: a class is a number from 0 on")
        return NO_CLASS
    return index


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii()


def parse_json(data: bytes) -> dict[str, Any]:
    """A sample's JSON member. Raises ``ValueError`` unless it is an object in UTF-8."""
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value
