"""Boxes in COCO's JSON, and in LVIS' and Objects365', which are COCO's with more or less in it.

The file is parsed once, piece by piece. What stays in memory is a name for every image and an
array row for every box; polygons, which are most of such a file, are read and dropped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from florence.config.storage import S3Settings
from florence.data.importing.box_table import NO_CATEGORY, BoxTable
from florence.data.importing.json_stream import outline, read_items
from florence.data.importing.objects import ImageObjects
from florence.data.importing.rows import (
    BrokenRow,
    Bytes,
    FirstOf,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    split_uri,
    stored_file,
)
from florence.data.importing.settings import BoxSettings
from florence.data.vocabularies import Vocabularies, Vocabulary
from florence.errors import DataError
from florence.storage import Entry, Storage

_NO_IMAGE = -1


@dataclass
class BoxDocument:
    """What one file says, in memory.

    Attributes:
        uri: of the file.
        names: of the categories, each once, in the file's order.
        frequencies: of the categories, where the file says them.
        image_ids, files: of the images.
        sizes: width and height of each, 0 where the file does not say.
        boxes: of all images.
        faults: what is wrong with images, by their number.
        negatives, not_exhaustive: names by image; empty but for LVIS.
    """

    uri: str
    names: list[str] = field(default_factory=list)
    frequencies: list[str] = field(default_factory=list)
    image_ids: list[int | str] = field(default_factory=list)
    files: list[tuple[str, ...]] = field(default_factory=list)
    sizes: array[int] = field(default_factory=lambda: array("l"))
    boxes: BoxTable = field(default_factory=BoxTable)
    faults: dict[int, str] = field(default_factory=dict)
    negatives: dict[int, tuple[str, ...]] = field(default_factory=dict)
    not_exhaustive: dict[int, tuple[str, ...]] = field(default_factory=dict)
    strays: list[BrokenRow] = field(default_factory=list)


def open_coco(sources: Sequence[str], settings: BoxSettings, s3: S3Settings | None) -> Source:
    """Open COCO's ``instances_*.json``, or any other of its form. Raises as :func:`open_boxes`."""
    return open_boxes(sources, settings, s3, name="coco")


def open_lvis(sources: Sequence[str], settings: BoxSettings, s3: S3Settings | None) -> Source:
    """Open LVIS v1, whose images are COCO's. Raises as :func:`open_boxes`."""
    return open_boxes(sources, settings, s3, name="lvis", federated=True)


def open_objects365(sources: Sequence[str], settings: BoxSettings, s3: S3Settings | None) -> Source:
    """Open Objects365, whose images lie in patches. Raises as :func:`open_boxes`."""
    return open_boxes(sources, settings, s3, name="objects365")


def open_boxes(
    sources: Sequence[str],
    settings: BoxSettings,
    s3: S3Settings | None,
    *,
    name: str,
    federated: bool = False,
) -> Source:
    """Open files of COCO's form.

    Args:
        name: of the data set, where the settings do not name it.
        federated: whether images were searched for some of the categories only.

    Raises:
        DataError: a file is missing, is not JSON, or has not the lists of this form. What is wrong
            further down in a file is found when its rows are read.
    """
    files = [stored_file(uri, s3) for uri in sources]
    for uri, (storage, entry) in zip(sources, files, strict=True):
        found = outline(storage, entry)
        if not ({"images"} <= found.keys() and isinstance(found["images"][0], Mapping)):
            raise DataError(f"{uri} has no list 'images' of objects: give a file of this format")
    source = settings.name or name

    @cache
    def document(number: int) -> BoxDocument:
        storage, entry = files[number]
        return read_document(sources[number], storage, entry, blank=settings.keep_blank)

    def rows() -> Iterator[Row | BrokenRow]:
        for number, uri in enumerate(sources):
            folder = ImageFolder(settings.images or split_uri(uri)[0], s3)
            yield from rows_of(document(number), folder, source)

    def vocabularies() -> Vocabularies:
        names: dict[str, None] = {}
        frequencies: dict[str, str] = {}
        for number in range(len(sources)):
            read = document(number)
            names |= dict.fromkeys(read.names)
            frequencies |= dict(zip(read.names, read.frequencies, strict=False))
        known = all(each in frequencies for each in names) and bool(names)
        return {
            source: Vocabulary(
                tuple(names),
                federated=federated,
                frequencies=tuple(frequencies[each] for each in names) if known else None,
            )
        }

    return Source(
        name=split_uri(sources[0])[1].rpartition(".")[0],
        identity=[fingerprint([entry]) for _, entry in files],
        rows=rows,
        vocabularies=vocabularies,
    )


def read_document(uri: str, storage: Storage, entry: Entry, *, blank: bool = False) -> BoxDocument:
    """Read a file of COCO's form.

    Args:
        blank: keep categories whose name is blank, which exports have and nothing is.

    Raises:
        DataError: it is not JSON, or has no usable categories.
    """
    document = BoxDocument(uri)
    reading = _Reading(document, blank=blank)
    readers: dict[str, Callable[[Any], None]] = {
        "images.item": reading.image,
        "annotations.item": reading.annotation,
        "categories.item": reading.category,
    }
    read_items(storage, entry, readers)
    reading.finish()
    return document


class _Reading:
    """Takes a file's objects as they come; a list may refer to one that is yet to come."""

    def __init__(self, document: BoxDocument, *, blank: bool) -> None:
        self._document = document
        self._blank = blank
        self._categories: dict[Any, str] = {}
        self._blank_ids: set[Any] = set()
        self._images: dict[Any, int] = {}
        self._early: list[Mapping[str, Any]] = []
        self._listed: dict[str, dict[int, Sequence[Any]]] = {}
        self._places: dict[str, int] = {}

    def category(self, item: Any) -> None:
        if not isinstance(item, Mapping) or "id" not in item:
            raise DataError(f"{self._document.uri} has a category without an id: give it one")
        name = str(item.get("name") or "").strip()
        if item["id"] in self._categories:
            raise DataError(
                f"{self._document.uri} has two categories of id {item['id']}: give each its own"
            )
        if not name and not self._blank:
            self._blank_ids.add(item["id"])
            return
        self._categories[item["id"]] = name
        if name not in self._document.names:
            self._document.names.append(name)
            if item.get("frequency") in ("r", "c", "f"):
                self._document.frequencies.append(item["frequency"])

    def image(self, item: Any) -> None:
        document = self._document
        number = len(document.image_ids)
        if not isinstance(item, Mapping) or not isinstance(item.get("id"), (int, str)):
            document.strays.append(
                BrokenRow(f"{document.uri} images[{number}]", "has no id: give it one")
            )
            return
        if item["id"] in self._images:
            document.strays.append(
                BrokenRow(
                    f"{document.uri} image {item['id']}",
                    "is listed twice: give each image its own id, or remove the copy",
                )
            )
            return
        self._images[item["id"]] = number
        document.image_ids.append(item["id"])
        document.files.append(file_names(item))
        for side in ("width", "height"):
            value = item.get(side)
            document.sizes.append(value if isinstance(value, int) and value > 0 else 0)
        for name in ("neg_category_ids", "not_exhaustive_category_ids"):
            if isinstance(item.get(name), list):
                self._listed.setdefault(name, {})[number] = tuple(item[name])

    def annotation(self, item: Any) -> None:
        if not isinstance(item, Mapping):
            self._document.boxes.add(_NO_IMAGE, NO_CATEGORY, None, fault="is no object")
            return
        kept = {key: item[key] for key in _KEPT if key in item}
        kept["segmentation"] = bool(item.get("segmentation"))
        if self._categories and item.get("image_id") in self._images:
            self._add(kept)
        else:
            self._early.append(kept)  # images or categories come behind the annotations

    def finish(self) -> None:
        for item in self._early:
            self._add(item)
        self._early = []
        document = self._document
        document.boxes.mark_repeated_ids()
        for name, target in (
            ("neg_category_ids", document.negatives),
            ("not_exhaustive_category_ids", document.not_exhaustive),
        ):
            for number, ids in self._listed.get(name, {}).items():
                target[number] = tuple(self._categories[i] for i in ids if i in self._categories)

    def _add(self, item: Mapping[str, Any]) -> None:
        document, category = self._document, item.get("category_id")
        image = self._images.get(item.get("image_id"), _NO_IMAGE)
        if category in self._blank_ids:
            return  # of the blank category, which is dropped with its boxes
        fault = None
        if image == _NO_IMAGE:
            fault = f"is of image {item.get('image_id')}, which is not listed: list or remove it"
        elif category not in self._categories:
            fault = f"has category_id {category}, which no category has: add the category"
        elif item.get("bbox") is None and item["segmentation"]:
            fault = "has a polygon and no bbox: write the box around it as [x, y, width, height]"
        score = item.get("score", 1.0)
        attributes = item.get("attributes")
        name = self._categories.get(category)
        document.boxes.add(
            image,
            NO_CATEGORY if name is None else self._place(name),
            item.get("bbox"),
            id=item.get("id"),
            crowd=bool(item.get("iscrowd", 0)),
            score=score if isinstance(score, (int, float)) else 1.0,
            area=item.get("area"),
            attributes=_texts(attributes),
            fault=fault,
        )

    def _place(self, name: str) -> int:
        if name not in self._places:
            self._places[name] = self._document.names.index(name)
        return self._places[name]


_KEPT = (
    "id", "image_id", "category_id", "bbox", "area", "iscrowd", "score", "attributes",
)  # fmt: skip


def rows_of(document: BoxDocument, folder: ImageFolder, source: str) -> Iterator[Row | BrokenRow]:
    """The images of a file with their boxes, then what belongs to none of them."""
    for number, image_id in enumerate(document.image_ids):
        where = f"{document.uri} image {image_id}"
        try:
            image = find_first(folder, document.files[number])
        except ValueError as error:
            yield BrokenRow(where, str(error))
            continue
        width, height = document.sizes[2 * number : 2 * number + 2]
        yield Row(
            where=where,
            image=image,
            objects=ImageObjects(
                image_id=image_id,
                source=source,
                boxes=document.boxes.of(number, document.names),
                size=(width, height) if width and height else None,
                negatives=document.negatives.get(number),
                not_exhaustive=document.not_exhaustive.get(number, ()),
                extra={"file_name": document.files[number][0]},
            ),
        )
    yield from document.strays
    for stray in document.boxes.of(_NO_IMAGE, document.names):
        yield BrokenRow(f"{document.uri} {stray.where}", stray.fault or "is of no image: remove it")


def find_first(folder: ImageFolder, names: Sequence[str]) -> Bytes:
    """Where an image is that may lie under several names. Raises as ``ImageFolder.find``."""
    places = tuple(folder.find(name) for name in names)
    return places[0] if len(places) == 1 else FirstOf(places)


def file_names(image: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which an image may lie, the likeliest first.

    LVIS has COCO's URL instead of a name; Objects365's names begin with folders that are not there
    once the archives are unpacked.
    """
    name = image.get("file_name")
    if not isinstance(name, str) or not name.strip():
        url = image.get("coco_url")
        name = "/".join(url.split("/")[-2:]) if isinstance(url, str) else ""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if "://" in name or name.startswith("/") or len(parts) < 2:
        return (name,)
    return tuple("/".join(parts[start:]) for start in range(len(parts)))


def _texts(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, (list, tuple)):
        return None
    return tuple(text for text in value if isinstance(text, str))
