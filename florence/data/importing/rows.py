"""What every format is read as: rows of one image (or clip) and what is known about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from florence.config.storage import S3Settings
from florence.data.importing.objects import ImageObjects
from florence.data.vocabularies import Vocabularies
from florence.errors import ConfigurationError, DataError, FlorenceError
from florence.storage import Entry, MissingKeyError, Storage, checked_key, open_storage


@dataclass(frozen=True)
class StoredBytes:
    """An object of a storage, read when it is needed."""

    storage: Storage
    key: str

    def read(self) -> bytes:
        """The bytes. Raises ``MissingKeyError`` and the storage's errors."""
        return self.storage.read(self.key)


@dataclass(frozen=True)
class FirstOf:
    """The same object under several names, of which one is right."""

    places: tuple[StoredBytes, ...]

    def read(self) -> bytes:
        """The bytes of the first that exists. Raises as :class:`StoredBytes`, of the first."""
        for place in self.places:
            try:
                return place.read()
            except MissingKeyError:
                continue
        return self.places[0].read()


class Readable(Protocol):
    """Bytes that are read, or made, when they are needed; in any thread."""

    def read(self) -> bytes:
        """The bytes. May raise ``MissingKeyError``, ``BrokenImageError`` and storage's errors."""


Bytes = bytes | Readable


@dataclass(frozen=True)
class Row:
    """One sample to be.

    Attributes:
        where: file and row, for messages: ``pairs.csv row 17``.
        source: what the sample came from, relative to its folder, for whoever reads the shards.
        image: the image; None for samples that have none, whose ``files`` hold all.
        video: the clip, of a sample without an image.
        between: seconds of the video that are the clip; None: all of it.
        files: further members by extension, copied as they are.
        text: what becomes the ``.txt`` member; None: none.
        class_index: what becomes the ``.cls`` member.
        meta: fields of the ``.json`` member, beside caption, width, height, sha256 and source; None
            when ``files`` has one already.
        objects: the boxes in the image, which become the ``.json`` member.
    """

    where: str
    source: str = ""
    image: Bytes | None = None
    video: Bytes | None = None
    between: tuple[float, float] | None = None
    files: Mapping[str, Bytes] = field(default_factory=dict)
    text: str | None = None
    class_index: int | None = None
    meta: Mapping[str, Any] | None = field(default_factory=dict)
    objects: ImageObjects | None = None


@dataclass(frozen=True)
class BrokenRow:
    """A row that cannot be imported: where, and why and what to do about it."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        name: what its data may be called, such as a file's name.
        identity: JSON values that are different when the source is; digested, never printed.
        rows: the rows in an order that depends on the source alone; may be iterated anew.
        class_names: by class number; None when there are no classes or no names.
        vocabularies: of images with boxes, the names that were looked for; called after all else.
    """

    name: str
    identity: Any
    rows: Callable[[], Iterator[Row | BrokenRow]]
    class_names: tuple[str, ...] | None = None
    vocabularies: Callable[[], Vocabularies] | None = None


def split_uri(uri: str) -> tuple[str, str]:
    """A file's URI as its folder and name: ``s3://bucket/a/b.csv`` is ``s3://bucket/a``, ``b.csv``.

    Raises :class:`ConfigurationError` when it names no file.
    """
    folder, slash, name = uri.rstrip("/").rpartition("/")
    if not name or folder.endswith(":/"):
        raise ConfigurationError(f"{uri} names no file: give its folder and name")
    return folder or ("/" if slash else "."), name


def stored_file(uri: str, s3: S3Settings | None) -> tuple[Storage, Entry]:
    """The storage of a file's folder, and the file there. Raises :class:`DataError` if none is."""
    folder, name = split_uri(uri)
    storage = open_storage(folder, s3)
    for entry in storage.list(name):
        if entry.key == name:
            return storage, entry
    raise DataError(f"{uri} does not exist: check the path")


def fingerprint(entries: list[Entry]) -> list[list[Any]]:
    """What identifies stored files without reading them: name, size and date."""
    return [[entry.key, entry.size, entry.modified] for entry in entries]


class ImageFolder:
    """Images that a table or a JSON names, relative to a folder or with their whole URI."""

    def __init__(self, uri: str, s3: S3Settings | None) -> None:
        self._base = open_storage(uri, s3)
        self._s3 = s3
        self._others: dict[str, Storage] = {}

    def find(self, name: str) -> StoredBytes:
        """Where an image is.

        Raises:
            ValueError: the name cannot lead to an image; says why.
        """
        name = name.strip()
        if not name:
            raise ValueError("no image is named: give a path")
        if name.startswith(("http://", "https://")):
            raise ValueError(
                f"the image is a web address ({name[:60]}): fetch the images first, for instance "
                "with img2dataset"
            )
        if "://" in name or name.startswith("/"):
            try:
                folder, key = split_uri(name)
                if folder not in self._others:
                    self._others = {folder: open_storage(folder, self._s3)}  # rows share a folder
            except FlorenceError as error:
                raise ValueError(str(error)) from error
            return StoredBytes(self._others[folder], checked_key(key))
        parts = [part for part in name.split("/") if part not in ("", ".")]
        return StoredBytes(self._base, checked_key("/".join(parts)))


def read_class_names(uri: str, s3: S3Settings | None) -> tuple[str, ...]:
    """Class names in the order of their numbers, from a JSON list or a text with one per line.

    Raises:
        ConfigurationError: neither; names the file.
    """
    return tuple(name for _, name in read_named_folders(uri, s3))


def read_named_folders(uri: str, s3: S3Settings | None) -> tuple[tuple[str, str], ...]:
    """Folders with their classes' names, by number, from a JSON object of folders and names.

    A list, JSON or a text with one per line, is of folders that are called as their classes.

    Raises:
        ConfigurationError: none of these; names the file.
    """
    import json

    folder, name = split_uri(uri)
    try:
        content = open_storage(folder, s3).read(name).decode("utf-8-sig")
        if name.endswith(".json"):
            names = json.loads(content, object_pairs_hook=list)
        else:
            names = [line.strip() for line in content.splitlines() if line.strip()]
    except MissingKeyError:
        raise ConfigurationError(f"classes: {uri} does not exist: check the path") from None
    except ValueError as error:
        raise ConfigurationError(f"classes: {uri} cannot be read: {error}") from error
    pairs = [(each, each) if isinstance(each, str) else each for each in names or ()]
    if not pairs or not all(
        isinstance(pair, tuple) and all(isinstance(n, str) and n for n in pair) for pair in pairs
    ):
        raise ConfigurationError(
            f"classes: {uri} is no list of names: write a JSON list, or a name on each line"
        )
    for part in zip(*pairs, strict=True):
        if len(set(part)) != len(part):
            twice = next(n for n in part if part.count(n) > 1)
            raise ConfigurationError(
                f"classes: {uri} has '{twice}' more than once: make names unique"
            )
    return tuple(pairs)


def read_text(uri: str, s3: S3Settings | None) -> str:
    """A file of UTF-8. Raises :class:`DataError` when it is missing or is none."""
    storage, entry = stored_file(uri, s3)
    try:
        return storage.read(entry.key).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8: {error.reason}: convert it") from error


def read_json(uri: str, s3: S3Settings | None) -> Any:
    """A file's JSON. Raises :class:`DataError` when it is missing or has none."""
    try:
        return json.loads(read_text(uri, s3))
    except ValueError as error:
        raise DataError(f"{uri} is not JSON: {error}: fetch it again") from error
