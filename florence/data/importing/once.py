"""Data that a stage on this machine is given as it is: imported once, into the home folder."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from florence.config.storage import S3Settings
from florence.data.builtin import SCHEME
from florence.data.importing.class_folders import images_in_folders
from florence.data.importing.importer import OnShard, import_data, import_digest
from florence.data.importing.json_stream import outline
from florence.data.importing.registry import FORMATS, ImportFormat, import_format
from florence.data.importing.rows import Source, split_uri, stored_file
from florence.data.importing.settings import ImportSettings
from florence.errors import ConfigurationError, DataError, TransientError
from florence.home import florence_home
from florence.storage import open_storage


def detect_format(uri: str, s3: S3Settings | None = None) -> ImportFormat | None:
    """The format of a file or folder; None for what needs no import (shards, ``builtin:…``).

    By the file's name, for ``.json`` by what it holds; a folder with sub-folders of images and
    without shards is ``class-folders``.

    Raises:
        DataError: a ``.json`` file is of no known format.
    """
    if uri.startswith(SCHEME) or uri.endswith(".tar"):
        return None
    for known in FORMATS.values():
        if known.suffixes and uri.lower().endswith(known.suffixes):
            return known
    if uri.lower().endswith(".json"):
        return _json_format(uri, s3)
    storage = open_storage(uri, s3)
    if any(entry.key.endswith(".tar") for entry in storage.list()):
        return None
    return FORMATS["class-folders"] if images_in_folders(storage) else None


def import_once(
    uri: str,
    *,
    format: str | None = None,  # noqa: A002 (the word that users know)
    settings: ImportSettings | None = None,
    home: Path | None = None,
    s3: S3Settings | None = None,
    on_shard: OnShard = lambda name, rows, samples: None,
) -> Path:
    """The folder of shards made of a file or folder, now or at an earlier call.

    It is ``<home>/data/imported/<name>-<digest>``; the digest stands for the source (names, sizes,
    dates) and the settings. Of several processes one imports and the others wait for it; a killed
    one is gone on with by the next.

    Args:
        uri: what :func:`detect_format` knows, or any source of ``format``.
        format: name of the format; found out when None.
        settings: of the format's model; its defaults when None.
        home: default ``$FLORENCE_HOME``.
        s3: where ``s3://`` is.
        on_shard: told of every shard that is written.

    Raises:
        ConfigurationError: the format is unknown, or the home cannot be written.
        DataError: the source is missing or unusable.
    """
    kind = import_format(format) if format else detect_format(uri, s3)
    if kind is None:
        raise ConfigurationError(
            f"{uri} is of no format that can be imported ({', '.join(FORMATS)}): name the format"
        )
    if settings is not None and type(settings) is not kind.settings:
        raise ConfigurationError(f"{uri} is {kind.name}, but the settings are another format's")
    settings = settings or kind.settings()
    source: Source = kind.open()([uri], settings, s3)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.name).strip("-.") or kind.name
    digest = import_digest(kind, source, settings)
    folder = (home or florence_home()) / "data" / "imported" / f"{name[:60]}-{digest[:16]}"
    if folder.is_dir():
        return folder
    with _alone(folder):
        if not folder.is_dir():  # else another process was faster
            draft = folder.with_name(f".{folder.name}")
            import_data(kind, [uri], str(draft), settings, s3, on_shard=on_shard)
            draft.rename(folder)
    return folder


def shards_of(
    uri: str,
    *,
    settings: ImportSettings | None = None,
    home: Path | None = None,
    s3: S3Settings | None = None,
) -> str:
    """A URI of shards as it stands; of anything else that can be imported, the shards made of it.

    Raises as :func:`import_once`.
    """
    if detect_format(uri, s3) is None:
        return uri
    return str(import_once(uri, settings=settings, home=home, s3=s3))


def _json_format(uri: str, s3: S3Settings | None) -> ImportFormat:
    storage, entry = stored_file(uri, s3)
    document = outline(storage, entry)
    readers = [known for known in FORMATS.values() if known.fits is not None]
    for known in readers:
        if known.fits is not None and known.fits(document):
            return known
    raise DataError(
        f"{uri} is a JSON of no known format ({', '.join(known.name for known in readers)}): "
        f"check {split_uri(uri)[1]}"
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that is to be made; a dead holder's lock is free."""
    lock = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigurationError(
            f"{folder.parent} cannot be written ({error.strerror}): "
            "set FLORENCE_HOME to a folder that can"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    except OSError as error:
        raise TransientError(
            f"{folder} cannot be written ({error.strerror}): free space there"
        ) from error
    finally:
        os.close(handle)
