"""Objects as files under a folder; a crash at any moment leaves none half-written."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from florence.errors import ConfigurationError, FlorenceError, NoSpaceError, TransientError
from florence.storage.protocol import Body, Entry, MissingKeyError, checked_key

_TRIES = 100
"""To open a file in a folder that others delete when it is empty."""

TEMPORARY_PREFIX = ".unfinished-"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
}
_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_COPY_BYTES = 1 << 20


class FolderStorage:
    """A :class:`~florence.storage.protocol.Storage` in a local or mounted folder.

    A write goes to a temporary file beside its target, is flushed to the disk and then takes the
    target's name in one operation; the folder is flushed too, so that a finished write survives a
    power cut.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder).expanduser().absolute()

    def __repr__(self) -> str:
        return f"FolderStorage({str(self.folder)!r})"

    @property
    def uri(self) -> str:
        return str(self.folder)

    def url(self, key: str) -> str:
        return f"{self.folder}/{key}"

    def read(self, key: str) -> bytes:
        with self._errors(key):
            return self._path(key).read_bytes()

    def read_range(self, key: str, start: int, length: int) -> bytes:
        with self._errors(key), self._path(key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def write(self, key: str, data: Body) -> None:
        target = self._path(key)
        with self._errors(key), self._finished_file(target, data) as temporary:
            temporary.replace(target)

    def write_new(self, key: str, data: Body) -> bool:
        target = self._path(key)
        with self._errors(key):
            if target.exists():
                return False
            with self._finished_file(target, data) as temporary:
                return _take_name(temporary, target)

    def size(self, key: str) -> int | None:
        with self._errors(key):
            try:
                status = self._path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return status.st_size

    def list(self, prefix: str = "") -> list[Entry]:
        # Only the folder part of the prefix can be walked; the rest is matched by name.
        start = self.folder / prefix.rpartition("/")[0]
        with self._errors(prefix):
            return sorted(
                Entry(key, size, modified)
                for key, size, modified in self._files(start)
                if key.startswith(prefix) and not _is_temporary(key)
            )

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors(key):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _flush_folder(path.parent)
            self._remove_empty(path.parent)

    def sweep_unfinished(self, before: float) -> int:
        swept = 0
        with self._errors(""):
            for key, _, modified in list(self._files(self.folder)):
                if _is_temporary(key) and modified < before:
                    path = self.folder / key
                    path.unlink(missing_ok=True)
                    self._remove_empty(path.parent)
                    swept += 1
        return swept

    def _path(self, key: str) -> Path:
        return self.folder / checked_key(key)

    def _files(self, start: Path) -> Iterator[tuple[str, int, float]]:
        """Key, size and modification time of every file under ``start``, unfinished ones too."""
        for parent, _, names in os.walk(start, onerror=_raise_unless_missing):
            for name in names:
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):  # deleted while we walk
                    status = path.stat()
                    key = path.relative_to(self.folder).as_posix()
                    yield key, status.st_size, status.st_mtime

    @contextlib.contextmanager
    def _finished_file(self, target: Path, data: Body) -> Iterator[Path]:
        """A flushed temporary file beside ``target``; gone afterwards unless it was renamed."""
        file = self._open_temporary(target)
        temporary = Path(file.name)
        try:
            with file:
                _copy(data, file)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
            _flush_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _open_temporary(self, target: Path) -> BinaryIO:
        path = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
        for _ in range(_TRIES - 1):
            _make_folders(target.parent)
            with contextlib.suppress(FileNotFoundError):
                # Not found: another process removed the folder because it was still empty.
                return path.open("xb")
        return path.open("xb")

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.folder and self.folder in folder.parents:
            try:
                folder.rmdir()
            except OSError:
                return  # not empty, or already gone
            folder = folder.parent

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _explained(error, self.url(key)) from error


def _explained(error: OSError, url: str) -> FlorenceError:
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return MissingKeyError(url)
    if error.errno in _FULL:
        return NoSpaceError(f"{url} cannot be written, {reason}: free space there and try again")
    if error.errno in _REFUSED:
        return ConfigurationError(f"{url}: {reason}: check the path and its permissions")
    return TransientError(f"{url}: {reason}: check the disk or mount and try again")


def _take_name(temporary: Path, target: Path) -> bool:
    """Give the file its name unless another holds it; a hard link is the one call doing both."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        if target.exists():
            return False
        temporary.replace(target)
    return True


def _copy(data: Body, file: BinaryIO) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            shutil.copyfileobj(source, file, _COPY_BYTES)
    else:
        file.write(data)


def _make_folders(folder: Path) -> None:
    """``mkdir -p`` whose new entries survive a power cut as the files in them do."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        child.mkdir(exist_ok=True)
        _flush_folder(child.parent)


def _flush_folder(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return  # it was empty and another process removed it
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network mounts cannot flush a folder; there the server orders names itself.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _is_temporary(key: str) -> bool:
    return key.rpartition("/")[2].startswith(TEMPORARY_PREFIX)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
