"""Trained models and the files that they are shown; importing this imports torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from PIL import Image

from florence.config.storage import S3Settings
from florence.data.images import BrokenImageError, decode
from florence.errors import DataError
from florence.loading import content_of
from florence.storage import open_storage


def content(name: str, s3: S3Settings) -> bytes:
    """What is in a file or under an ``s3://`` URI; a DataError that names it where nothing is."""
    if not name.startswith("s3://"):
        read = content_of(name)
        assert isinstance(read, bytes)
        return read
    folder, _, key = name.rpartition("/")
    return open_storage(folder, s3).read(key)


def contents_of(
    names: Iterable[str], s3: S3Settings, refuse: Callable[[str], None]
) -> Iterator[tuple[str, bytes]]:
    """Files by name, as they are; what is wrong with those left out is told in a line."""
    for name in names:
        try:
            yield name, content(name, s3)
        except DataError as error:
            refuse(str(error))


def pictures_of(
    names: Iterable[str], s3: S3Settings, refuse: Callable[[str], None]
) -> Iterator[tuple[str, Image.Image]]:
    """Image files by name, in RGB; what is wrong with those left out is told in a line."""
    for name in names:
        try:
            yield name, decode(content(name, s3))
        except BrokenImageError as error:
            refuse(f"{name}: {error}")
        except DataError as error:
            refuse(str(error))
