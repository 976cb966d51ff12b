"""Videos with captions: MSR-VTT, JSFUSION's split of it, MSVD, DiDeMo, ActivityNet, WebVid.

The first caption becomes the ``.txt``; all of them are ``captions`` of the ``.json``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.rows import (
    BrokenRow,
    Row,
    Source,
    fingerprint,
    read_json,
    read_text,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import SegmentCaptions, VideoCaptions
from florence.data.importing.videos import VideoFolder, checked_times, require_rows
from florence.errors import DataError

_DIDEMO_PART = 5.0
"""Seconds of the parts by which DiDeMo counts."""


@dataclass(frozen=True)
class _Described:
    """A video, or a part of one, with its captions."""

    where: str
    name: str
    captions: tuple[str, ...]
    times: tuple[Any, Any] | None = None


def open_msrvtt(sources: Sequence[str], settings: VideoCaptions, s3: S3Settings | None) -> Source:
    """MSR-VTT's json (videos, sentences), or JSFUSION's csv (video_id, sentence): 1K-A.

    Raises:
        DataError: a file is missing or of no such format.
    """
    found: list[_Described] = []
    for uri in sources:
        if uri.lower().endswith(".csv"):
            table = _table(uri, s3, ("video_id", "sentence"))
            found += _grouped(uri, ((row["video_id"], row["sentence"]) for row in table))
            continue
        document = _object(uri, s3, ("videos", "sentences"))
        wanted = {
            str(video.get("video_id"))
            for video in document["videos"]
            if settings.split in (None, video.get("split"))
        }
        if not wanted:
            raise DataError(f"{uri} has no video of split '{settings.split}': check its name")
        pairs = ((str(s.get("video_id")), str(s.get("caption", ""))) for s in document["sentences"])
        found += _grouped(uri, (pair for pair in pairs if pair[0] in wanted))
    return _source(sources, settings, s3, found, "msrvtt")


def open_msvd(sources: Sequence[str], settings: VideoCaptions, s3: S3Settings | None) -> Source:
    """MSVD's list: a video's name and a caption on each line, the English ones.

    Raises:
        DataError: a file is missing, or a line is not so.
    """
    found: list[_Described] = []
    for uri in sources:
        pairs = []
        for number, line in enumerate(read_text(uri, s3).splitlines(), 1):
            if not line.strip() or line.startswith("#"):
                continue
            name, _, caption = line.strip().partition(" ")
            if not caption:
                raise DataError(f"{uri} line {number} is not a video and a caption: correct it")
            pairs.append((name, caption))
        found += _grouped(uri, pairs)
    return _source(sources, settings, s3, found, "msvd")


def open_didemo(sources: Sequence[str], settings: SegmentCaptions, s3: S3Settings | None) -> Source:
    """DiDeMo's json: descriptions with the parts of 5 seconds that annotators chose.

    Raises:
        DataError: a file is missing or no such JSON.
    """
    found: list[_Described] = []
    for uri in sources:
        entries = read_json(uri, s3)
        if not isinstance(entries, list) or not all(
            isinstance(e, Mapping) and {"video", "description", "times"} <= e.keys()
            for e in entries
        ):
            raise DataError(f"{uri} is no list of objects with video, description and times")
        if settings.whole:
            pairs = [(str(e["video"]), str(e["description"])) for e in entries]
            found += [_paragraph(each) for each in _grouped(uri, pairs)]
            continue
        for number, entry in enumerate(entries, 1):
            first, last = entry["times"][0] if entry["times"] else (None, None)
            times = (
                (_DIDEMO_PART * first, _DIDEMO_PART * (last + 1))
                if isinstance(first, int) and isinstance(last, int)
                else (first, last)
            )
            text = str(entry["description"]).strip()
            found.append(_Described(f"{uri} entry {number}", str(entry["video"]), (text,), times))
    return _source(sources, settings, s3, found, "didemo")


def open_activitynet(
    sources: Sequence[str], settings: SegmentCaptions, s3: S3Settings | None
) -> Source:
    """ActivityNet Captions' json: by video, timestamps and sentences.

    Raises:
        DataError: a file is missing or no such JSON.
    """
    found: list[_Described] = []
    for uri in sources:
        document = read_json(uri, s3)
        if not isinstance(document, Mapping) or not all(
            isinstance(v, Mapping) and {"timestamps", "sentences"} <= v.keys()
            for v in document.values()
        ):
            raise DataError(f"{uri} is no object of videos with timestamps and sentences")
        for name, video in document.items():
            texts = [str(sentence).strip() for sentence in video["sentences"]]
            where = f"{uri} {name}"
            if settings.whole:
                found.append(_paragraph(_Described(where, name, tuple(texts))))
                continue
            for number, (text, times) in enumerate(
                zip(texts, video["timestamps"], strict=False), 1
            ):
                found.append(_Described(f"{where} sentence {number}", name, (text,), tuple(times)))
    return _source(sources, settings, s3, found, "activitynet")


def open_webvid(sources: Sequence[str], settings: VideoCaptions, s3: S3Settings | None) -> Source:
    """WebVid's csv: videoid, name (the caption), page_dir. Raises :class:`DataError`."""
    found = [
        _Described(f"{uri} row {number}", f"{row.get('page_dir') or ''}/{row['videoid']}", texts)
        for uri in sources
        for number, row in enumerate(_table(uri, s3, ("videoid", "name")), 1)
        for texts in [((row["name"] or "").strip(),)]
    ]
    return _source(sources, settings, s3, found, "webvid")


def _grouped(uri: str, pairs: Any) -> list[_Described]:
    """One entry for each video, its captions in the order of the file."""
    captions: dict[str, list[str]] = {}
    for name, caption in pairs:
        captions.setdefault(str(name), []).append(str(caption).strip())
    return [_Described(f"{uri} {name}", name, tuple(texts)) for name, texts in captions.items()]


def _paragraph(each: _Described) -> _Described:
    """All captions of a video as one text."""
    return _Described(each.where, each.name, (" ".join(t for t in each.captions if t),))


def _source(
    sources: Sequence[str],
    settings: VideoCaptions,
    s3: S3Settings | None,
    described: Sequence[_Described],
    name: str,
) -> Source:
    require_rows(described, sources)
    folder = VideoFolder(settings.videos or split_uri(sources[0])[0], s3)

    def rows() -> Iterator[Row | BrokenRow]:
        for each in described:
            captions = [caption for caption in each.captions if caption]
            try:
                if not captions:
                    raise ValueError("has no caption: add one or remove the video")
                between = None if each.times is None else checked_times(*each.times)
                video = folder.find(each.name, each.name.rpartition("/")[2])
            except ValueError as error:
                yield BrokenRow(each.where, str(error))
                continue
            yield Row(
                where=each.where,
                source=video.key,
                video=video,
                between=between,
                text=captions[0],
                meta={"video": each.name, "captions": captions},
            )

    identity = [fingerprint([stored_file(uri, s3)[1]]) for uri in sources]
    return Source(name=name, identity=identity, rows=rows)


def _object(uri: str, s3: S3Settings | None, lists: Sequence[str]) -> Mapping[str, Any]:
    document = read_json(uri, s3)
    for name in lists:
        listed = document.get(name) if isinstance(document, Mapping) else None
        if not isinstance(listed, list) or not all(isinstance(e, Mapping) for e in listed):
            raise DataError(f"{uri} has no list '{name}' of objects: give a file of this format")
    found: Mapping[str, Any] = document
    return found


def _table(uri: str, s3: S3Settings | None, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    table = csv.DictReader(read_text(uri, s3).splitlines())
    lacking = [name for name in columns if name not in (table.fieldnames or ())]
    if lacking:
        raise DataError(f"{uri} has no column {', '.join(lacking)}: give a file of this format")
    return iter(table)
