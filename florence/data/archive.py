"""What lies where in a WebDataset tar: samples are runs of members that share a stem."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from florence.storage import Storage

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "avi", "mov")
_DAMAGE = (tarfile.TarError, OSError, ValueError, IndexError, OverflowError, RecursionError)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_READ_AHEAD = 8 << 20


@dataclass(frozen=True)
class Member:
    """One regular file inside a tar: where its bytes are."""

    name: str
    offset: int
    size: int


@dataclass
class RawSample:
    """The members of one sample by extension (lower case, without the first dot)."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)

    @property
    def media_type(self) -> str | None:
        """The extension of what is looked at: an image's if there is one, else a clip's."""
        known = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS
        return next((e for e in known if e in self.members), None)

    @property
    def image(self) -> Member | None:
        """The image, if there is one."""
        return next((self.members[e] for e in IMAGE_EXTENSIONS if e in self.members), None)


@dataclass(frozen=True)
class Problem:
    """Something in a shard that cannot be used; ``member`` is empty when it is the shard itself."""

    shard: str
    member: str
    reason: str

    def __str__(self) -> str:
        where = f"{self.shard}:{self.member}" if self.member else self.shard
        return f"{where}: {self.reason}"


def printable(name: str) -> str:
    """A member's name for people: what is not UTF-8, and control characters, are escaped."""
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in name)


def _escaped(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return chr(code).encode("unicode_escape").decode()


def _fault_of_name(name: str) -> str | None:
    """Why a name cannot be a sample's key, which is printed, hashed and written into files."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8: write the shard with names in UTF-8"
    if _CONTROL.search(name):
        return "its name holds a line break or another control character: rename it"
    return None


def split_name(name: str) -> tuple[str, str]:
    """``folder/0001.seg.png`` as its key and extension, ``("folder/0001", "seg.png")``."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


class StoredFile(io.RawIOBase):
    """A stored object as a seekable file that reads ranges; wrap it in a ``BufferedReader``."""

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage, self._key, self._size = storage, key, size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        data = self._storage.read_range(self._key, self._position, length)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class Archive:
    """A tar in a storage, read from front to back once: its samples, and what is wrong with it.

    Attributes:
        problems: everything that cannot be used.
        damage: the one of them that ended the reading early, so that nobody knows what is lost.
    """

    def __init__(self, storage: Storage, shard: str, size: int) -> None:
        self.shard = shard
        self.size = size
        self.problems: list[Problem] = []
        self.damage: Problem | None = None
        self._file = io.BufferedReader(StoredFile(storage, shard, size), _READ_AHEAD)

    def samples(self) -> Iterator[RawSample]:
        """The samples in order. A damaged tar ends early and leaves its reason in ``problems``."""
        current: RawSample | None = None
        seen: set[str] = set()
        for member in self._members():
            fault = _fault_of_name(member.name)
            if fault is not None:
                self.note(member.name, fault)
                continue
            key, extension = split_name(member.name)
            if not extension or key.endswith("/"):
                continue  # not part of a sample: no extension, or a hidden file
            if current is None or key != current.key:
                if current is not None:
                    yield current
                if key in seen:
                    self.note(member.name, "its sample is not stored in one run, or is there twice")
                seen.add(key)
                current = RawSample(key)
            if extension in current.members:
                self.note(member.name, "the sample already has a member of this kind")
            else:
                current.members[extension] = member
        if current is not None:
            yield current

    def read(self, member: Member) -> bytes:
        """A member's bytes, all of them: members that reach past the end were never listed."""
        self._file.seek(member.offset)
        return self._file.read(member.size)

    def chunks(self, member: Member) -> Iterator[bytes]:
        """A member's bytes in pieces, for one that may be larger than memory."""
        for start in range(0, member.size, _READ_AHEAD):
            self._file.seek(member.offset + start)
            yield self._file.read(min(_READ_AHEAD, member.size - start))

    def note(self, member: str, reason: str) -> None:
        """Remember something that cannot be used."""
        self.problems.append(Problem(self.shard, printable(member), reason))

    def _end(self, member: str, reason: str) -> None:
        self.note(member, reason)
        self.damage = self.problems[-1]

    def _members(self) -> Iterator[Member]:
        try:
            archive = tarfile.open(fileobj=self._file, mode="r:")  # noqa: SIM115 (closes nothing)
        except _DAMAGE as error:
            self._end("", f"is not an uncompressed tar: {error}")
            return
        while True:
            try:
                info = archive.next()
            except _DAMAGE as error:
                self._end("", f"is damaged at byte {archive.offset}: {error}")
                return
            archive.members.clear()  # type: ignore[attr-defined]  # else they are all kept
            if info is None:
                break
            if info.size < 0:  # base 256 can say that, and tarfile would go back for ever
                self._end(info.name, f"is damaged: its size is {info.size}")
                return
            if not info.isfile():
                continue
            if info.offset_data + info.size > self.size:
                self._end(info.name, f"is cut off: the shard ends at byte {self.size}")
                return
            yield Member(info.name, info.offset_data, info.size)
        # tarfile takes a damaged header for the end; the real end is a block of zeros.
        self._file.seek(archive.offset)
        if self._file.read(tarfile.BLOCKSIZE).strip(b"\0") or archive.offset >= self.size:
            self._end("", f"is cut off or damaged at byte {archive.offset}")
