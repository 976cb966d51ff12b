"""Visual Genome's objects.json and, beside it, attributes.json and image_data.json.

All three are lists of images and are read piece by piece. An object's attributes stand in another
file than its box and are joined by ``object_id``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.box_table import NO_CATEGORY, BoxTable
from florence.data.importing.coco_boxes import find_first
from florence.data.importing.json_stream import outline, read_items
from florence.data.importing.objects import ImageObjects
from florence.data.importing.rows import (
    BrokenRow,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    read_class_names,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import VisualGenome
from florence.data.vocabularies import Vocabulary
from florence.errors import DataError
from florence.storage import Entry, Storage, open_storage

_FOLDERS = ("VG_100K", "VG_100K_2")


@dataclass
class _Boxes:
    image_ids: list[int | str] = field(default_factory=list)
    table: BoxTable = field(default_factory=lambda: BoxTable("object"))
    names: list[str] = field(default_factory=list)
    strays: list[BrokenRow] = field(default_factory=list)


def open_visual_genome(
    sources: Sequence[str], settings: VisualGenome, s3: S3Settings | None
) -> Source:
    """Open ``objects.json``; images lie in VG_100K and VG_100K_2, or in the images' folder itself.

    Raises:
        DataError: a file is missing or is not of this form.
    """
    files = [stored_file(uri, s3) for uri in sources]
    for uri, (storage, entry) in zip(sources, files, strict=True):
        first = outline(storage, entry).get("", [None])[0]
        if not isinstance(first, Mapping) or "objects" not in first:
            raise DataError(f"{uri} is no list of images with 'objects': give objects.json")
    folder = split_uri(sources[0])[0]
    attributes = _beside(settings.attributes, folder, "attributes.json", s3)
    image_data = _beside(settings.image_data, folder, "image_data.json", s3)
    kept = None if settings.classes is None else read_class_names(settings.classes, s3)
    kept_attributes = (
        None if settings.attribute_names is None else read_class_names(settings.attribute_names, s3)
    )
    source = settings.name or "visual-genome"

    @cache
    def said() -> Mapping[int, tuple[str, ...]]:
        return {} if attributes is None else _attributes(*attributes, kept_attributes)

    @cache
    def sizes() -> Mapping[Any, tuple[int, int]]:
        return {} if image_data is None else _sizes(*image_data)

    @cache
    def boxes(number: int) -> _Boxes:
        return _read(sources[number], *files[number], said(), kept)

    def rows() -> Iterator[Row | BrokenRow]:
        for number, uri in enumerate(sources):
            images = ImageFolder(settings.images or split_uri(uri)[0], s3)
            read = boxes(number)
            for image, image_id in enumerate(read.image_ids):
                yield Row(
                    where=f"{uri} image {image_id}",
                    image=find_first(images, image_names(image_id)),
                    objects=ImageObjects(
                        image_id=image_id,
                        source=source,
                        boxes=read.table.of(image, read.names),
                        size=sizes().get(image_id),
                    ),
                )
            yield from read.strays

    def names() -> tuple[str, ...]:
        if kept is not None:
            return kept
        return tuple(sorted({n for number in range(len(sources)) for n in boxes(number).names}))

    others = [file for file in (attributes, image_data) if file is not None]
    return Source(
        name=split_uri(sources[0])[1].rpartition(".")[0],
        identity=[
            [fingerprint([entry]) for _, entry in (*files, *others)],
            kept,
            kept_attributes,
        ],
        rows=rows,
        vocabularies=lambda: {source: Vocabulary(names())},
    )


def image_names(image_id: int | str) -> list[str]:
    """Where an image may lie below the images' folder, the likeliest place first."""
    return [*(f"{part}/{image_id}.jpg" for part in _FOLDERS), f"{image_id}.jpg"]


def _beside(
    uri: str | None, folder: str, name: str, s3: S3Settings | None
) -> tuple[Storage, Entry] | None:
    if uri is not None:
        return stored_file(uri, s3)
    there = [entry for entry in open_storage(folder, s3).list(name) if entry.key == name]
    return (open_storage(folder, s3), there[0]) if there else None


def _read(
    uri: str,
    storage: Storage,
    entry: Entry,
    attributes: Mapping[int, tuple[str, ...]],
    kept: Sequence[str] | None,
) -> _Boxes:
    boxes, seen, places = _Boxes(), set[Any](), dict[str, int]()
    for name in kept or ():
        places[name] = len(places)

    def take(item: Any) -> None:
        if not isinstance(item, Mapping) or not isinstance(item.get("image_id"), (int, str)):
            number = len(boxes.image_ids)
            boxes.strays.append(BrokenRow(f"{uri} image {number}", "has no image_id: give it one"))
            return
        image_id = item["image_id"]
        if image_id in seen:
            boxes.strays.append(
                BrokenRow(f"{uri} image {image_id}", "is listed twice: remove the copy")
            )
            return
        seen.add(image_id)
        image = len(boxes.image_ids)
        boxes.image_ids.append(image_id)
        for each in item.get("objects") or ():
            if not isinstance(each, Mapping):
                continue
            name, fault = _name(each), None
            if name is None:
                fault = "has no name: name it or remove it"
            elif kept is not None and name not in places:
                continue
            else:
                places.setdefault(name, len(places))
            object_id = each.get("object_id")
            said = attributes.get(object_id, ()) if isinstance(object_id, int) else ()
            boxes.table.add(
                image,
                NO_CATEGORY if name is None else places[name],
                [each.get(side) for side in ("x", "y", "w", "h")],
                id=object_id,
                attributes=said if attributes else None,
                fault=fault,
            )

    read_items(storage, entry, {"item": take})
    boxes.table.mark_repeated_ids()
    boxes.names = list(places)
    return boxes


def _name(item: Mapping[str, Any]) -> str | None:
    names = item.get("names") or ([item["name"]] if isinstance(item.get("name"), str) else [])
    first = str(names[0]).strip().lower() if names else ""
    return first or None


def _attributes(
    storage: Storage, entry: Entry, kept: Sequence[str] | None
) -> Mapping[int, tuple[str, ...]]:
    """By ``object_id`` what is said of it, each text held once."""
    words: dict[str, str] = {}
    allowed = None if kept is None else set(kept)
    found: dict[int, tuple[str, ...]] = {}

    def take(item: Any) -> None:
        for each in item.get("attributes") or () if isinstance(item, Mapping) else ():
            if isinstance(each, Mapping) and isinstance(each.get("object_id"), int):
                texts = [str(t).strip().lower() for t in each.get("attributes") or ()]
                texts = [t for t in texts if t and (allowed is None or t in allowed)]
                unique = dict.fromkeys(words.setdefault(t, t) for t in texts)
                found[each["object_id"]] = tuple(unique)

    read_items(storage, entry, {"item": take})
    return found


def _sizes(storage: Storage, entry: Entry) -> Mapping[Any, tuple[int, int]]:
    found: dict[Any, tuple[int, int]] = {}

    def take(item: Any) -> None:
        if isinstance(item, Mapping):
            size = item.get("width"), item.get("height")
            if isinstance(size[0], int) and isinstance(size[1], int):
                found[item.get("image_id", item.get("id"))] = (size[0], size[1])

    read_items(storage, entry, {"item": take})
    return found
