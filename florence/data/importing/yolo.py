"""YOLO: a text file for each image, ``class x y width height`` in fractions of the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from florence.config.storage import S3Settings
from florence.data.importing.class_folders import is_image
from florence.data.importing.objects import FoundBox, ImageObjects
from florence.data.importing.rows import (
    BrokenRow,
    Row,
    Source,
    StoredBytes,
    fingerprint,
    read_class_names,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import Yolo
from florence.data.vocabularies import Vocabulary
from florence.errors import DataError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

_NUMBERS = 5


@dataclass(frozen=True)
class _Part:
    """The images of one source and their labels, by key."""

    storage: Storage
    images: list[Entry]
    labels: Mapping[str, Entry]
    names: tuple[str, ...]


def open_yolo(sources: Sequence[str], settings: Yolo, s3: S3Settings | None) -> Source:
    """Open ``data.yaml`` files; an image without a text file has no objects.

    Raises:
        DataError: a file is missing, is not of this form, or names no images.
    """
    parts = [_open_part(uri, settings, s3) for uri in sources]
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    source = settings.name or "yolo"

    def rows() -> Iterator[Row | BrokenRow]:
        for part in parts:
            for entry in part.images:
                yield _row(part, entry, source, blank=settings.keep_blank)

    return Source(
        name=sources[0].rstrip("/").rpartition("/")[2].rpartition(".")[0] or "yolo",
        identity=[
            [fingerprint(part.images), fingerprint(list(part.labels.values())), part.names]
            for part in parts
        ],
        rows=rows,
        vocabularies=lambda: {
            source: Vocabulary(tuple(n for n in names if n.strip() or settings.keep_blank))
        },
    )


def _open_part(uri: str, settings: Yolo, s3: S3Settings | None) -> _Part:
    _, entry = stored_file(uri, s3)
    root = split_uri(uri)[0]
    storage = open_storage(root, s3)
    try:
        document = yaml.safe_load(storage.read(entry.key))
    except yaml.YAMLError as error:
        raise DataError(f"{uri} is not YAML: {str(error).splitlines()[0]}: mend it") from error
    if not isinstance(document, Mapping):
        raise DataError(f"{uri} is no data.yaml of YOLO: it names no images and classes")
    names = read_class_names(settings.classes, s3) if settings.classes else _names(uri, document)
    split = settings.split.value
    given = document.get(split) or (document.get("valid") if split == "val" else None)
    paths = [given] if isinstance(given, str) else list(given or ())
    if not paths:
        raise DataError(f"{uri} names no images under '{split}': check --split")
    entries = storage.list()
    base = document.get("path") if isinstance(document.get("path"), str) else ""
    keys = _image_keys(uri, storage, entries, [str(path) for path in paths], str(base))
    by_key = {each.key: each for each in entries}
    images = [by_key[key] for key in keys if key in by_key]
    if not images:
        raise DataError(f"{uri}: no image lies under {', '.join(map(str, paths))}: check the paths")
    labels = {e.key: by_key[k] for e in images if (k := label_key(e.key)) in by_key}
    return _Part(storage, images, labels, names)


def _names(uri: str, document: Mapping[str, Any]) -> tuple[str, ...]:
    names = document.get("names")
    if isinstance(names, Mapping) and sorted(names) == list(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise DataError(f"{uri} has no list 'names' of the classes: add it, or give --classes")
    return tuple(str(name if name is not None else "").strip() for name in names)


def _image_keys(
    uri: str, storage: Storage, entries: Sequence[Entry], paths: Sequence[str], base: str
) -> list[str]:
    """The images under folders or in lists, whose paths are written in several ways.

    A path is relative to ``path``, which is relative to the yaml or to wherever the author stood;
    Roboflow's lead out of the folder that they lie in (``../train/images``).
    """
    found: dict[str, None] = {}
    for path in paths:
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        roots = [[part for part in base.split("/") if part not in ("", ".", "..")], []]
        wanted = ["/".join([*root, *parts]) for root in roots]
        wanted += ["/".join(parts[start:]) for start in range(1, len(parts))]
        for key in wanted:
            if key.endswith(".txt") and any(entry.key == key for entry in entries):
                lines = storage.read(key).decode("utf-8-sig", "replace").splitlines()
                below = key.rpartition("/")[0]
                listed = [line.strip().removeprefix("./") for line in lines if line.strip()]
                found |= dict.fromkeys(f"{below}/{name}".lstrip("/") for name in listed)
                break
            images = [e.key for e in entries if e.key.startswith(f"{key}/") and is_image(e.key)]
            if images:
                found |= dict.fromkeys(images)
                break
    return list(found)


def label_key(image: str) -> str:
    """Where an image's boxes lie: the last ``images`` folder is ``labels``, the name ends .txt."""
    parts = image.split("/")
    for place in range(len(parts) - 2, -1, -1):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return "/".join(parts).rpartition(".")[0] + ".txt"


def _row(part: _Part, entry: Entry, source: str, *, blank: bool) -> Row | BrokenRow:
    label = part.labels.get(entry.key)
    boxes: list[FoundBox] = []
    where = part.storage.url(label.key if label else entry.key)
    if label is not None:
        try:
            text = part.storage.read(label.key).decode("utf-8-sig")
        except (MissingKeyError, UnicodeDecodeError) as error:
            return BrokenRow(where, f"cannot be read ({error}): write it again")
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                box = found_box(f"line {number}", line, part.names)
                if box.fault is not None or box.category or blank:
                    boxes.append(box)
    return Row(
        where=where,
        image=StoredBytes(part.storage, entry.key),
        objects=ImageObjects(
            image_id=entry.key.rpartition("/")[2].rpartition(".")[0],
            source=source,
            boxes=boxes,
            relative=True,
            extra={"file_name": entry.key},
        ),
    )


def found_box(where: str, line: str, names: Sequence[str]) -> FoundBox:
    """One line of a text file."""
    fields = line.split()
    if len(fields) == _NUMBERS + 1:
        return FoundBox(
            where=where,
            fault="has a sixth number: a confidence belongs to predictions, an angle to turned "
            "boxes; write class, x, y, width and height",
        )
    if len(fields) != _NUMBERS:
        what = "is a polygon and no box" if len(fields) > _NUMBERS else "is too short"
        return FoundBox(
            where=where,
            fault=f"{what} ({len(fields)} numbers): write class, x, y, width and height",
        )
    try:
        number, (x, y, width, height) = int(fields[0]), map(float, fields[1:])
    except ValueError:
        return FoundBox(where=where, fault=f"holds something else than numbers: '{line[:40]}'")
    if not 0 <= number < len(names):
        return FoundBox(
            where=where, fault=f"has class {number}, and {len(names)} have names: correct it"
        )
    return FoundBox(
        where=where,
        bbox=(x - width / 2, y - height / 2, width, height),
        category=names[number],
    )
