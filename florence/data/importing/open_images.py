"""Open Images' box files: csv rows of corners in fractions of the image, labels as /m/… codes.

Its vocabulary is federated: an image was searched for the labels that people verified in it, and a
class without a box or a verified absence says nothing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from florence.config.storage import S3Settings
from florence.data.archive import StoredFile
from florence.data.importing.box_table import NO_CATEGORY, BoxTable
from florence.data.importing.objects import ImageObjects
from florence.data.importing.rows import (
    BrokenRow,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import OpenImages
from florence.data.vocabularies import Vocabulary
from florence.errors import ConfigurationError, DataError
from florence.storage import Entry, Storage, open_storage

_CORNERS = ("XMin", "XMax", "YMin", "YMax")
_NEEDED = ("ImageID", "LabelName", *_CORNERS)
_DESCRIPTIONS = "class-descriptions-boxable.csv"


@dataclass
class _Boxes:
    """The boxes of one file, and which images they are of."""

    image_ids: list[str] = field(default_factory=list)
    table: BoxTable = field(default_factory=lambda: BoxTable("row"))
    names: list[str] = field(default_factory=list)


def open_open_images(sources: Sequence[str], settings: OpenImages, s3: S3Settings | None) -> Source:
    """Open box files; an image's name is its id with ``.jpg``.

    Raises:
        DataError: a file is missing or is not one of boxes.
        ConfigurationError: nothing says what the labels are called.
    """
    files = [stored_file(uri, s3) for uri in sources]
    for uri, (storage, entry) in zip(sources, files, strict=True):
        _check_header(uri, next(_lines(storage, entry), []))
    descriptions = settings.classes or _beside(sources[0], s3)
    listed = stored_file(descriptions, s3)
    labels = {} if settings.image_labels is None else {"l": stored_file(settings.image_labels, s3)}
    source = settings.name or "openimages"

    @cache
    def names() -> dict[str, str]:
        rows = (row for row in _lines(*listed) if len(row) >= 2)
        return {row[0]: row[1].strip() for row in rows if row[0].startswith("/")}

    @cache
    def negatives() -> Mapping[str, tuple[str, ...]]:
        return _negatives(*labels["l"], names()) if labels else {}

    @cache
    def boxes(number: int) -> _Boxes:
        return _read(*files[number], names())

    def rows() -> Iterator[Row | BrokenRow]:
        for number, uri in enumerate(sources):
            folder = ImageFolder(settings.images or split_uri(uri)[0], s3)
            read = boxes(number)
            for image, image_id in enumerate(read.image_ids):
                yield Row(
                    where=f"{uri} image {image_id}",
                    image=folder.find(f"{image_id}.jpg"),
                    objects=ImageObjects(
                        image_id=image_id,
                        source=source,
                        boxes=read.table.of(image, read.names),
                        relative=True,
                        negatives=negatives().get(image_id, ()),
                        extra={"file_name": f"{image_id}.jpg"},
                    ),
                )

    return Source(
        name=split_uri(sources[0])[1].rpartition(".")[0],
        identity=[fingerprint([entry]) for _, entry in (*files, listed, *labels.values())],
        rows=rows,
        vocabularies=lambda: {
            source: Vocabulary(tuple(dict.fromkeys(names().values())), federated=True)
        },
    )


def _check_header(uri: str, header: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in header]
    if missing:
        raise DataError(
            f"{uri} has no column {', '.join(missing)}: give …-annotations-bbox.csv of Open Images"
        )


def _beside(uri: str, s3: S3Settings | None) -> str:
    folder, _ = split_uri(uri)
    for entry in open_storage(folder, s3).list():
        if entry.key.endswith(_DESCRIPTIONS) and "/" not in entry.key:
            return f"{folder}/{entry.key}"
    raise ConfigurationError(
        f"classes: no {_DESCRIPTIONS} lies beside {uri}: name the file that says what the labels "
        "are called"
    )


def _read(storage: Storage, entry: Entry, names: Mapping[str, str]) -> _Boxes:
    boxes, images = _Boxes(), dict[str, int]()
    lines = _lines(storage, entry)
    header = next(lines)
    place = {name: header.index(name) for name in header}
    boxes.names = list(dict.fromkeys(names.values()))
    category = {name: number for number, name in enumerate(boxes.names)}
    for number, fields in enumerate(lines, 2):
        row = dict(zip(header, fields, strict=False))
        image_id, label = row.get("ImageID", ""), row.get("LabelName", "")
        image = images.setdefault(image_id, len(images))
        if image == len(boxes.image_ids):
            boxes.image_ids.append(image_id)
        fault, bbox = None, None
        if len(fields) < len(place):
            fault = f"has {len(fields)} fields instead of {len(place)}: mend the row"
        elif label not in names:
            fault = f"has label {label}, which the class descriptions do not name: add it there"
        else:
            bbox = _corners(row)
        boxes.table.add(
            image,
            category[names[label]] if label in names else NO_CATEGORY,
            bbox,
            id=number,
            crowd=row.get("IsGroupOf", "0").strip() == "1",
            fault=fault,
        )
    return boxes


def _corners(row: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    try:
        left, right, top, bottom = (float(row[name]) for name in _CORNERS)
    except ValueError:
        return None
    return left, top, right - left, bottom - top


def _negatives(
    storage: Storage, entry: Entry, names: Mapping[str, str]
) -> Mapping[str, tuple[str, ...]]:
    """By image the names that people looked for and did not find: confidence 0."""
    found: dict[str, list[str]] = {}
    lines = _lines(storage, entry)
    header = next(lines, [])
    try:
        image, label, sure = (header.index(n) for n in ("ImageID", "LabelName", "Confidence"))
    except ValueError as error:
        raise DataError(f"{storage.url(entry.key)} has no image labels: {error}") from error
    for fields in lines:
        if len(fields) > max(image, label, sure) and float(fields[sure] or 1) == 0:
            found.setdefault(fields[image], []).append(names.get(fields[label], ""))
    # Labels for which there are no boxes at all have no name here.
    return {key: tuple(dict.fromkeys(filter(None, listed))) for key, listed in found.items()}


def _lines(storage: Storage, entry: Entry) -> Iterator[list[str]]:
    raw = io.BufferedReader(StoredFile(storage, entry.key, entry.size), 1 << 20)
    try:
        with io.TextIOWrapper(raw, "utf-8-sig", newline="") as file:
            yield from csv.reader(file)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{storage.url(entry.key)} is no table: {error}: fetch it again") from error
