"""What importers of videos share: finding the files, and what is stored of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from florence.config.storage import S3Settings
from florence.data.archive import VIDEO_EXTENSIONS
from florence.data.importing.rows import Row, StoredBytes
from florence.data.importing.settings import ImportSettings, VideoImport
from florence.data.video.decoding import open_clip
from florence.data.video.writing import rewritten
from florence.errors import DataError
from florence.storage import open_storage


def is_video(key: str) -> bool:
    """Whether a file's name says that it is a video; hidden files are not."""
    name = key.rpartition("/")[2]
    return not name.startswith(".") and name.lower().rpartition(".")[2] in VIDEO_EXTENSIONS


class VideoFolder:
    """The video files below a folder, found by path or by name, with or without extension."""

    def __init__(self, uri: str, s3: S3Settings | None) -> None:
        self._storage = open_storage(uri, s3)
        self.keys = [entry.key for entry in self._storage.list() if is_video(entry.key)]
        self._by_name: dict[str, str] = {}
        for key in self.keys:
            for name in _names(key):
                self._by_name.setdefault(name, key)

    def find(self, *names: str) -> StoredBytes:
        """The file of the first of some names that is there. Raises ``ValueError``."""
        for name in names:
            wanted = name.strip().removeprefix("./")
            if wanted in self._by_name:
                return StoredBytes(self._storage, self._by_name[wanted])
        raise ValueError(
            f"there is no video '{names[0]}' in {self._storage.uri}: add the file or set videos"
        )


def require_rows(rows: Sequence[object], sources: Sequence[str]) -> None:
    """Raise :class:`DataError` where the sources list nothing."""
    if not rows:
        raise DataError(f"{', '.join(sources)}: no video is listed there: check the path")


def _names(key: str) -> Iterator[str]:
    """What a file may be called: its path and its name, each with and without extension."""
    last = key.rpartition("/")[2]
    yield from (key, key.rpartition(".")[0], last, last.rpartition(".")[0])


def checked_times(start: Any, end: Any) -> tuple[float, float]:
    """A part of a video in seconds.

    Raises:
        ValueError: one is no number or negative, or the start is not before the end.
    """
    try:
        first, last = float(start), float(end)
    except (TypeError, ValueError):
        raise ValueError(f"times {start!r} and {end!r} are no seconds: correct them") from None
    if not 0 <= first < last < float("inf"):
        raise ValueError(
            f"starts at {first:g} s and ends at {last:g} s: the start is to be before the end, and "
            "neither negative"
        )
    return first, last


def stored_video(
    row: Row, data: bytes, settings: ImportSettings
) -> tuple[str, bytes, dict[str, Any]]:
    """The extension, the bytes and what is known of a row's video.

    Raises:
        BrokenClipError: it cannot be decoded.
    """
    extension = row.source.lower().rpartition(".")[2]
    extension = extension if extension in VIDEO_EXTENSIONS else "mp4"
    wanted = settings if isinstance(settings, VideoImport) else VideoImport()
    if wanted.short_side or wanted.fps or row.between is not None:
        data = rewritten(data, short_side=wanted.short_side, rate=wanted.fps, between=row.between)
        extension = "mp4"
    with open_clip(data) as clip:
        last = len(clip.times) - 1
        frame = clip.frames([last if settings.decode else 0])[0]
        facts: Mapping[str, Any] = {
            "width": frame.shape[1],
            "height": frame.shape[0],
            "frames": len(clip.times),
            "seconds": round(clip.duration, 3),
        }
    return extension, data, dict(facts)
