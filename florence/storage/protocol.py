"""What every storage promises, so that checkpoints and shards need not know where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from florence.errors import DataError

Body = bytes | memoryview | Path
"""The content of an object: bytes in memory, or a local file to copy."""


class MissingKeyError(DataError):
    """Nothing is stored under a key that was read."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} does not exist: check the URI, or whether it was deleted")
        self.url = url

    def __reduce__(self) -> tuple[type[MissingKeyError], tuple[str]]:
        return type(self), (self.url,)


@dataclass(frozen=True, order=True)
class Entry:
    """One stored object: its key, its size in bytes, and when it was written (unix seconds)."""

    key: str
    size: int
    modified: float


class Storage(Protocol):
    """Objects under keys such as ``commits/000000000100-1.json``.

    Keys are relative and separated by ``/``. Every method may raise ``ConfigurationError`` (wrong
    credentials, endpoint, bucket, or a folder without permission) and ``TransientError`` (network
    or server gave up; ``NoSpaceError``: disk full); messages are one line, name the URI and hold
    no secret.
    Instances may be used from several threads and may be pickled or forked into other processes.
    """

    @property
    def uri(self) -> str:
        """Where key ``""`` would be, without a trailing slash."""

    def read(self, key: str) -> bytes:
        """The whole object. Raises ``MissingKeyError``."""

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``, fewer at the end. Raises ``MissingKeyError``."""

    def write(self, key: str, data: Body) -> None:
        """Store or replace an object: readers see the old one or the new one, never a part."""

    def write_new(self, key: str, data: Body) -> bool:
        """Store an object unless the key is taken; False if it is. As atomic as :meth:`write`.

        Where neither the file system nor the server can create only once, this looks first and then
        writes: of two writers in the same instant both may be told True and the later one stays,
        whole. Callers must stay correct then.
        """

    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None if there is none."""

    def list(self, prefix: str = "") -> list[Entry]:
        """Every whole object whose key starts with ``prefix``, recursively, sorted by key."""

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""

    def sweep_unfinished(self, before: float) -> int:
        """Remove what writes that died before unix second ``before`` left behind; how many."""

    def url(self, key: str) -> str:
        """Where an object is, for messages and for people."""


def checked_key(key: str) -> str:
    """``key`` itself if it is relative and stays inside its storage; ``ValueError`` if not."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise ValueError(f"{key!r} is not a storage key: use relative names separated by '/'")
    return key
