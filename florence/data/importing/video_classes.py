"""Videos with a class: Kinetics, mmaction's lists, UCF101, HMDB51, Something-Something v2."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.rows import (
    BrokenRow,
    Row,
    Source,
    fingerprint,
    read_class_names,
    read_json,
    read_text,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import VideoClasses
from florence.data.importing.videos import VideoFolder, require_rows
from florence.errors import ConfigurationError, DataError
from florence.storage import open_storage

Labelled = tuple[str, tuple[str, ...], str]
"""Where a row stands, the names that its file may have, and its class."""


def open_kinetics(sources: Sequence[str], settings: VideoClasses, s3: S3Settings | None) -> Source:
    """Kinetics' csv (label, youtube_id, time_start, time_end), or folders named by classes.

    Raises:
        DataError: a source is missing, or is no such table.
    """
    rows: list[Labelled] = []
    for uri in sources:
        if uri.lower().endswith(".csv"):
            rows += _kinetics_table(uri, s3)
        else:
            folder = VideoFolder(uri, s3)
            rows += [(f"{uri}/{k}", (k,), k.partition("/")[0]) for k in folder.keys if "/" in k]
    return _source(sources, settings, s3, rows, "kinetics")


def _kinetics_table(uri: str, s3: S3Settings | None) -> Iterator[Labelled]:
    wanted = {"label", "youtube_id", "time_start", "time_end"}
    table = csv.DictReader(read_text(uri, s3).splitlines())
    lacking = wanted - set(table.fieldnames or ())
    if lacking:
        raise DataError(
            f"{uri} has no column {', '.join(sorted(lacking))}: give Kinetics' csv with the "
            f"columns {', '.join(sorted(wanted))}"
        )
    for number, row in enumerate(table, 1):
        name, label = row["youtube_id"] or "", (row["label"] or "").strip()
        try:
            times = f"_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
        except (TypeError, ValueError):
            times = ""
        names = (f"{label}/{name}{times}", f"{name}{times}", name)
        yield f"{uri} row {number}", names, label


def open_mmaction(sources: Sequence[str], settings: VideoClasses, s3: S3Settings | None) -> Source:
    """mmaction's lists: a path and a class number on each line. Raises :class:`DataError`."""
    rows = [
        (where, (path,), label)
        for uri in sources
        for where, path, label in _listed(uri, s3, "a path and a class number")
    ]
    return _source(sources, settings, s3, rows, "mmaction")


def open_ucf101(sources: Sequence[str], settings: VideoClasses, s3: S3Settings | None) -> Source:
    """UCF101's lists: the class is the folder's name. Raises :class:`DataError`."""
    rows = []
    for uri in sources:
        for number, line in _lines(uri, s3):
            path = line.rsplit(" ", 1)[0] if re.search(r" \d+$", line) else line
            names = (path, path.rpartition("/")[2])
            rows.append((f"{uri} line {number}", names, path.partition("/")[0]))
    return _source(sources, settings, s3, rows, "ucf101")


def open_hmdb51(sources: Sequence[str], settings: VideoClasses, s3: S3Settings | None) -> Source:
    """HMDB51's ``<class>_test_split<n>.txt``: of each file those that it marks as training, 1.

    The test part is what ``#2`` after the file's name asks for.

    Raises:
        DataError: a file is missing, or is not called so.
    """
    rows = []
    for source in sources:
        uri, _, part = source.partition("#")
        found = re.fullmatch(r"(.+)_test_split\d\.txt", split_uri(uri)[1])
        if found is None:
            raise DataError(f"{uri} is not called <class>_test_split<n>.txt: give HMDB51's files")
        for where, path, mark in _listed(uri, s3, "a file and 0, 1 or 2"):
            if mark == (part or "1"):
                rows.append((where, (f"{found[1]}/{path}", path), found[1]))
    plain = [source.partition("#")[0] for source in sources]
    return _source(plain, settings, s3, rows, "hmdb51")


def open_ssv2(sources: Sequence[str], settings: VideoClasses, s3: S3Settings | None) -> Source:
    """Something-Something v2's json: the class is the template without its brackets.

    Raises:
        DataError: a file is missing or no such JSON.
    """
    rows = []
    for uri in sources:
        for number, entry in enumerate(_json_list(uri, s3, ("id", "template")), 1):
            label = str(entry["template"]).replace("[", "").replace("]", "")
            rows.append((f"{uri} entry {number}", (str(entry["id"]),), label))
    return _source(sources, settings, s3, rows, "ssv2")


def _source(
    sources: Sequence[str],
    settings: VideoClasses,
    s3: S3Settings | None,
    listed: Iterable[Labelled],
    name: str,
) -> Source:
    listed = list(listed)
    require_rows(listed, sources)
    first = sources[0]
    is_folder = "." not in first.rstrip("/").rpartition("/")[2]
    folder = VideoFolder(settings.videos or (first if is_folder else split_uri(first)[0]), s3)
    numbers, names = _numbered({label for _, _, label in listed if label}, settings, s3)

    def rows() -> Iterator[Row | BrokenRow]:
        for where, files, label in listed:
            if label not in numbers:
                problem = f"'{label}' is not in the list of classes" if label else "has no class"
                yield BrokenRow(where, f"{problem}: add or correct it")
                continue
            try:
                video = folder.find(*files)
            except ValueError as error:
                yield BrokenRow(where, str(error))
                continue
            number = numbers[label]
            yield Row(
                where=where,
                source=video.key,
                video=video,
                text=names[number] if names else None,
                class_index=number,
            )

    return Source(name=name, identity=_identity(sources, s3, names), rows=rows, class_names=names)


def _numbered(
    labels: set[str], settings: VideoClasses, s3: S3Settings | None
) -> tuple[Mapping[str, int], tuple[str, ...] | None]:
    """Class numbers by label, and names by number where there are some."""
    are_numbers = bool(labels) and all(label.isdecimal() and len(label) < 9 for label in labels)
    if settings.classes is not None:
        names = read_class_names(settings.classes, s3)
        if are_numbers:
            return {label: int(label) for label in labels if int(label) < len(names)}, names
        return {name: number for number, name in enumerate(names)}, names
    if are_numbers:
        return {label: int(label) for label in labels}, None
    ordered = tuple(sorted(labels))
    return {name: number for number, name in enumerate(ordered)}, ordered


def _identity(sources: Sequence[str], s3: S3Settings | None, names: Any) -> list[Any]:
    found = []
    for uri in sources:
        if "." in uri.rstrip("/").rpartition("/")[2]:
            found.append(fingerprint([stored_file(uri, s3)[1]]))
        else:
            found.append(fingerprint(list(open_storage(uri, s3).list())))
    return [found, names]


def _lines(uri: str, s3: S3Settings | None) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(uri, s3).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _listed(uri: str, s3: S3Settings | None, what: str) -> Iterator[tuple[str, str, str]]:
    """Lines of a path and a word: (where, path, word)."""
    for number, line in _lines(uri, s3):
        path, _, word = line.rpartition(" ")
        if not path or not word.isdecimal():
            raise DataError(f"{uri} line {number} is not {what}: correct it")
        yield f"{uri} line {number}", path.strip(), word


def _json_list(
    uri: str, s3: S3Settings | None, fields: Sequence[str]
) -> Iterator[Mapping[str, Any]]:
    document = read_json(uri, s3)
    if not isinstance(document, list) or not all(
        isinstance(entry, Mapping) and all(name in entry for name in fields) for entry in document
    ):
        raise ConfigurationError(
            f"{uri} is no list of objects with {' and '.join(fields)}: give a file of this format"
        )
    return iter(document)
