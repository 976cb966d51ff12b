"""The byte index of a shard, ``<shard>.idx``: where each sample's bytes are, and what its text is.

File: one line of JSON, then ``count`` records of :data:`RECORD`, then the keys as a JSON list.
With it a sample is one ranged read, labels need no pass over the data, and a damaged or exchanged
shard is noticed: the header has the shard's size and every record a CRC of its media and text.

Version 1 joined the keys by newlines and knew no clips. An image's record differs in ``media_type``
only, which was zero. Version 2 did not say whether the shard is damaged. Both are still read.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.config import TextIdentity
from florence.data.archive import (
    IMAGE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Archive,
    Member,
    Problem,
    RawSample,
    split_name,
)
from florence.data.members import (
    TEXT_CLASS,
    TEXT_NONE,
    class_index_of,
    class_name_of,
    json_of,
    note_no_text,
    note_unread_class,
    text_of,
)
from florence.errors import DataError
from florence.storage import Entry, Storage
from florence.text.normalisation import text_label, word_count
from florence.text.tokenizer import encode

FORMAT = "florence-index"
VERSION = 3
SUFFIX = ".idx"
# The code is the place in this list. Append only: codes are in files.
MEDIA_TYPES = ("image", *IMAGE_EXTENSIONS, *VIDEO_EXTENSIONS)
FIRST_VIDEO = MEDIA_TYPES.index(VIDEO_EXTENSIONS[0])
OnMedia = Callable[[bytes], object]
"""Told the bytes of a file; raises ``ValueError`` for a broken one."""
RECORD = np.dtype(
    [
        ("offset", "<u8"),  # of the run of bytes that holds media, text and json
        ("length", "<u4"),
        ("media", "<u4"),  # starts are relative to the run
        ("media_length", "<u4"),
        ("text", "<u4"),
        ("text_length", "<u4"),
        ("json", "<u4"),
        ("json_length", "<u4"),
        ("text_source", "u1"),  # none, .txt, the json's caption, or the class name in .cls
        ("media_type", "u1"),  # place in MEDIA_TYPES; 0: an image that version 1 wrote
        ("reserved", "<u2"),
        ("words", "<u4"),  # of the canonical text; 0: no text
        ("tokens", "<u4"),  # byte pairs without start and end, uncut
        ("class_index", "<i4"),
        ("label", "<i8"),  # of the canonical text
        ("exact_label", "<i8"),
        ("query", "<i8"),  # hash of the canonical query; 0: none
        ("crc", "<u4"),  # of the media's bytes followed by the text member's
    ]
)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of one shard that have an image or a clip, in order."""

    shard: str
    size: int
    modified: float
    records: NDArray[Any]
    keys: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    version: int = VERSION
    damage: str | None = None
    """Why the shard ends early, if it does: it has lost samples, nobody knows how many."""

    @property
    def is_video(self) -> NDArray[np.bool_]:
        """By sample whether its media is a clip."""
        return np.asarray(self.records["media_type"] >= FIRST_VIDEO)

    def digest(self) -> str:
        """BLAKE2b over where and what every sample is; it does not change when files are copied.

        Nor when an earlier version's index of the same images is replaced by this one's, so that a
        run that began with the one resumes with the other.
        """
        records = self.records.copy()
        records["media_type"][~self.is_video] = 0
        digest = hashlib.blake2b(records.tobytes(), digest_size=16)
        digest.update("\n".join(self.keys).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """The index as a file."""
        header = {
            "format": FORMAT,
            "version": VERSION,
            "shard": self.shard.rpartition("/")[2],
            "shardSize": self.size,
            "shardModified": self.modified,
            "count": len(self.records),
            "damage": self.damage,
            "problems": [[p.member, p.reason] for p in self.problems],
        }
        return b"".join(
            [
                json.dumps(header).encode(),
                b"\n",
                self.records.tobytes(),
                json.dumps(self.keys).encode(),
            ]
        )

    @staticmethod
    def from_bytes(data: bytes, shard: str, url: str) -> ShardIndex:
        """Read an index file. Raises :class:`DataError` unless it is whole and of this version."""
        header = read_header(data, url)
        try:
            records = np.frombuffer(data, RECORD, header.count, header.length)
            keys = _KEYS_OF[header.version](data[header.length + records.nbytes :])
            if len(keys) != header.count:
                raise ValueError("keys are missing")
            if header.count and records["media_type"].max() >= len(MEDIA_TYPES):
                raise ValueError("a media type is unknown")
        except ValueError as error:
            raise _unreadable(url, error) from error
        problems = tuple(Problem(shard, member, why) for member, why in header.problems)
        return ShardIndex(
            shard,
            header.size,
            header.modified,
            records,
            keys,
            problems,
            header.version,
            header.damage,
        )


@dataclass(frozen=True)
class Header:
    """The first line of an index: of which shard it is and what follows ``length`` bytes later."""

    version: int
    size: int
    modified: float
    count: int
    problems: tuple[tuple[str, str], ...]
    damage: str | None
    length: int


def read_header(data: bytes, url: str) -> Header:
    """The header of an index file, or of as much of it as holds the first line.

    Raises:
        DataError: it is damaged or not of a version that is known.
    """
    try:
        end = data.index(b"\n")
        header = json.loads(data[:end])
        if header["format"] != FORMAT or header["version"] not in _KEYS_OF:
            raise ValueError(f"{header['format']} version {header['version']}")
        problems = tuple((str(member), str(reason)) for member, reason in header["problems"])
        damage = header["damage"] if header["version"] >= 3 else _damage_of_version_2(problems)
        return Header(
            version=header["version"],
            size=int(header["shardSize"]),
            modified=float(header["shardModified"]),
            count=int(header["count"]),
            problems=problems,
            damage=None if damage is None else str(damage),
            length=end + 1,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(url, error) from error


def _unreadable(url: str, error: Exception) -> DataError:
    return DataError(
        f"{url} is not an index this version reads ({error}): run 'florencectl data index' again"
    )


def _damage_of_version_2(problems: Sequence[tuple[str, str]]) -> str | None:
    ends = ("is cut off", "is damaged", "is not an uncompressed tar")
    return next((_damage(m, why) for m, why in problems if why.startswith(ends)), None)


def _damage(member: str, reason: str) -> str:
    return f"{member} {reason}".lstrip()


def _keys_of_version_1(data: bytes) -> tuple[str, ...]:
    return tuple(data.decode().split("\n")) if data else ()


def _keys_of_version_2(data: bytes) -> tuple[str, ...]:
    keys = json.loads(data)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("keys are no list of names")
    return tuple(keys)


_KEYS_OF = {1: _keys_of_version_1, 2: _keys_of_version_2, 3: _keys_of_version_2}


def build_index(
    storage: Storage,
    entry: Entry,
    *,
    on_image: OnMedia | None = None,
    on_clip: OnMedia | None = None,
) -> ShardIndex:
    """Read a shard from front to back and index it.

    ``on_image`` and ``on_clip`` are called with the bytes of every image and clip and raise
    ``ValueError`` for a broken one: that is how ``data check`` decodes while it reads.
    """
    archive = Archive(storage, entry.key, entry.size)
    records, keys = [], []
    for sample in archive.samples():
        record = _record(archive, sample, on_image, on_clip)
        if record is not None:
            records.append(record)
            keys.append(sample.key)
    found = np.array(records, RECORD)
    _note_odd_ones(archive, found, keys)
    damage = archive.damage
    return ShardIndex(
        entry.key,
        entry.size,
        entry.modified,
        found,
        tuple(keys),
        tuple(archive.problems),
        damage=None if damage is None else _damage(damage.member, damage.reason),
    )


def _note_odd_ones(archive: Archive, records: NDArray[Any], keys: Sequence[str]) -> None:
    """Name the samples that lack what others of the shard have: a stage would leave them out."""
    told = {split_name(problem.member)[0] for problem in archive.problems}
    if (records["words"] > 0).any():
        for row in np.flatnonzero(records["words"] == 0).tolist():
            if keys[row] not in told:
                archive.note(keys[row], "the sample has no text, as others of the shard have")
    if (records["class_index"] >= 0).any():
        for row in np.flatnonzero(records["text_source"] == TEXT_CLASS).tolist():
            archive.note(
                f"{keys[row]}.cls", "holds a name, where others of the shard have class numbers"
            )


def _record(
    archive: Archive, sample: RawSample, on_image: OnMedia | None, on_clip: OnMedia | None
) -> tuple[int | float, ...] | None:
    media_type = sample.media_type
    if media_type is None:
        archive.note(sample.key, f"the sample has no image or clip ({_known_media()})")
        return None
    media, described = sample.members[media_type], sample.members.get("json")
    meta = json_of(archive, described) if described else {}
    class_name = class_name_of(archive, sample)
    source, text_member, text = text_of(archive, sample, meta, class_name)
    words = word_count(text)
    if not words:
        note_no_text(archive, sample, source)
        source, text_member, text = TEXT_NONE, None, ""
    elif source != TEXT_CLASS:
        note_unread_class(archive, sample, class_name)
    used = [m for m in (media, text_member, described) if m is not None]
    start = min(m.offset for m in used)
    length = max(m.offset + m.size for m in used) - start
    if length >= 1 << 32:
        archive.note(sample.key, f"spans {length} bytes: a sample is read at once, below 4 GiB")
        return None
    on_media = on_image if media_type in IMAGE_EXTENSIONS else on_clip
    if on_media is not None:
        try:
            on_media(archive.read(media))
        except ValueError as error:
            archive.note(media.name, str(error))
    query = meta.get("query")
    return (
        start,
        length,
        media.offset - start,
        media.size,
        *_place(text_member, start),
        *_place(described, start),
        source,
        MEDIA_TYPES.index(media_type),
        0,
        words,
        len(encode(text)),
        class_index_of(archive, sample, class_name),
        text_label(text, TextIdentity.CANONICAL),
        text_label(text, TextIdentity.EXACT),
        text_label(query) if isinstance(query, str) and word_count(query) else 0,
        _crc(archive, media, text_member),
    )


def _known_media() -> str:
    return ", ".join(f".{e}" for e in IMAGE_EXTENSIONS + VIDEO_EXTENSIONS)


def _place(member: Member | None, start: int) -> tuple[int, int]:
    return (member.offset - start, member.size) if member else (0, 0)


def _crc(archive: Archive, *members: Member | None) -> int:
    crc = 0
    for member in members:
        for chunk in archive.chunks(member) if member else ():
            crc = zlib.crc32(chunk, crc)
    return crc
