"""Pascal VOC: an XML file for each image, in ``Annotations`` or beside the images.

VOC counts pixels from 1 and names the first and the last one that belong to an object, so its
corners are moved by one on the way to a box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from xml.etree import ElementTree

from florence.config.storage import S3Settings
from florence.data.importing.coco_boxes import find_first
from florence.data.importing.objects import FoundBox, ImageObjects
from florence.data.importing.rows import (
    BrokenRow,
    ImageFolder,
    Row,
    Source,
    fingerprint,
    read_class_names,
)
from florence.data.importing.settings import Voc
from florence.data.vocabularies import Vocabulary
from florence.errors import DataError
from florence.storage import Entry, MissingKeyError, Storage, open_storage

_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class _Folder:
    """A source: its XML files, and where its images lie."""

    storage: Storage
    files: list[Entry]
    images: str


def open_voc(sources: Sequence[str], settings: Voc, s3: S3Settings | None) -> Source:
    """Open folders such as ``VOCdevkit/VOC2007``, or of XML files beside their images.

    Raises:
        DataError: a folder has no XML files, or no such split.
    """
    folders = [_folder(uri, settings, s3) for uri in sources]
    kept = None if settings.classes is None else read_class_names(settings.classes, s3)
    source = settings.name or "voc"

    def rows() -> Iterator[Row | BrokenRow]:
        for folder in folders:
            images = ImageFolder(folder.images, s3)
            for entry in folder.files:
                yield _row(folder.storage, entry, images, source, kept, settings.first_pixel)

    @cache
    def names() -> tuple[str, ...]:
        if kept is not None:
            return kept
        found = (_classes(folder.storage, entry) for f in folders for folder, entry in _each(f))
        return tuple(sorted({name for listed in found for name in listed}))

    return Source(
        name=sources[0].rstrip("/").rpartition("/")[2],
        identity=[[fingerprint(folder.files) for folder in folders], kept],
        rows=rows,
        vocabularies=lambda: {source: Vocabulary(names())},
    )


def _each(folder: _Folder) -> Iterator[tuple[_Folder, Entry]]:
    return ((folder, entry) for entry in folder.files)


def _folder(uri: str, settings: Voc, s3: S3Settings | None) -> _Folder:
    storage = open_storage(uri, s3)
    entries = [entry for entry in storage.list() if entry.key.lower().endswith(".xml")]
    in_folder = [entry for entry in entries if entry.key.startswith("Annotations/")]
    files, images = in_folder or entries, settings.images
    if images is None:
        images = f"{uri.rstrip('/')}/JPEGImages" if in_folder else uri
    if settings.split is not None:
        wanted = _split(uri, storage, settings.split)
        files = [entry for entry in files if _stem(entry.key) in wanted]
    if not files:
        raise DataError(f"{uri} holds no annotations (*.xml): give a folder of Pascal VOC")
    return _Folder(storage, files, images)


def _split(uri: str, storage: Storage, split: str) -> set[str]:
    key = f"ImageSets/Main/{split}.txt"
    try:
        lines = storage.read(key).decode().splitlines()
    except (MissingKeyError, UnicodeDecodeError) as error:
        raise DataError(f"{uri} has no list {key}: check --split") from error
    # A list for one class has a second column; -1 says that the class is not in the image.
    return {line.split()[0] for line in lines if line.strip()}


def _stem(key: str) -> str:
    return key.rpartition("/")[2].rpartition(".")[0]


def _root(storage: Storage, entry: Entry) -> ElementTree.Element:
    if entry.size > _MOST_BYTES:
        raise ValueError(f"is {entry.size} bytes long: that is no annotation of one image")
    try:
        return ElementTree.fromstring(storage.read(entry.key))
    except ElementTree.ParseError as error:
        raise ValueError(f"is not XML ({error}): write it again") from error


def _classes(storage: Storage, entry: Entry) -> Iterator[str]:
    try:
        root = _root(storage, entry)
    except ValueError:
        return  # its row says so
    for item in root.iter("object"):
        if name := (item.findtext("name") or "").strip():
            yield name


def _row(
    storage: Storage,
    entry: Entry,
    images: ImageFolder,
    source: str,
    kept: Sequence[str] | None,
    first_pixel: int,
) -> Row | BrokenRow:
    where = storage.url(entry.key)
    try:
        root = _root(storage, entry)
        name = (root.findtext("filename") or "").strip() or f"{_stem(entry.key)}.jpg"
        beside = f"{entry.key.rpartition('/')[0]}/{name}".lstrip("/")
        image = find_first(images, [name] if beside == name else [name, beside])
    except ValueError as error:
        return BrokenRow(where, str(error))
    items = enumerate(root.iter("object"))
    boxes = [_box(f"object {number}", item, first_pixel) for number, item in items]
    if kept is not None:
        boxes = [box for box in boxes if box.fault is not None or box.category in kept]
    return Row(
        where=where,
        image=image,
        objects=ImageObjects(
            image_id=_stem(entry.key),
            source=source,
            boxes=boxes,
            size=_size(root),
            extra={"file_name": name},
        ),
    )


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _box(where: str, item: ElementTree.Element, first_pixel: int) -> FoundBox:
    name = (item.findtext("name") or "").strip()
    if not name:
        return FoundBox(where=where, fault="has no name: name it or remove it")
    box = item.find("bndbox")
    if box is None:
        polygon = item.find("polygon") is not None
        what = "a polygon and no bndbox: write the box around it" if polygon else "no bndbox"
        return FoundBox(where=where, fault=f"has {what}")
    try:
        left, top, right, bottom = (
            float(box.findtext(corner) or "") for corner in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        return FoundBox(where=where, fault="has a bndbox without four numbers: draw it again")
    return FoundBox(
        where=where,
        bbox=(
            left - first_pixel,
            top - first_pixel,
            right - left + first_pixel,
            bottom - top + first_pixel,
        ),
        category=name,
        crowd=(item.findtext("difficult") or "0").strip() == "1",
    )
