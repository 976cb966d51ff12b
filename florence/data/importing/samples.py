"""From a row to the members of a sample: read, checked, described."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from florence.data.images import BrokenImageError, load_image, open_image
from florence.data.importing.objects import CheckedObjects, checked_objects
from florence.data.importing.rows import BrokenRow, Bytes, Row
from florence.data.importing.settings import ImportSettings
from florence.storage import MissingKeyError

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Made:
    """The members of a sample by extension.

    Attributes:
        boxes: how many boxes it has.
        broken_boxes: those that are left out, each with where it is and what to do.
    """

    members: dict[str, bytes]
    boxes: int = 0
    broken_boxes: tuple[BrokenRow, ...] = ()


def make_sample(row: Row | BrokenRow, settings: ImportSettings) -> Made | BrokenRow:
    """Read what a row names: the image's bytes as they are unless ``shorter_side`` shrinks it.

    Raises the storage's errors but a missing file, which breaks the row only.
    """
    if isinstance(row, BrokenRow):
        return row
    try:
        return _made(row, settings)
    except MissingKeyError as error:
        return BrokenRow(row.where, f"{error.url} does not exist: add the file or remove the row")
    except BrokenImageError as error:
        what = "image" if row.video is None else "video"
        return BrokenRow(row.where, f"{error}: replace the {what} or remove the row")
    except _WrongSizeError as error:
        return BrokenRow(row.where, str(error))
    except UnicodeEncodeError:
        return BrokenRow(row.where, "its text is not Unicode: convert it to UTF-8")


class _WrongSizeError(Exception):
    """An image is not the one that its boxes were drawn on."""


def _made(row: Row, settings: ImportSettings) -> Made:
    members: dict[str, bytes] = {}
    meta: dict[str, Any] = {}
    checked: CheckedObjects | None = None
    if row.image is not None:
        data, image, found_size = _image(_read(row.image), settings)
        members[_EXTENSIONS[str(image.format)]] = data
        meta = {"width": image.width, "height": image.height}
        meta["sha256"] = hashlib.sha256(data).hexdigest()
        if row.objects is not None:
            try:
                checked = checked_objects(row.objects, found_size, image.size)
            except ValueError as error:
                raise _WrongSizeError(str(error)) from error
            meta = {**row.objects.extra, **checked.record.wire(), "sha256": meta["sha256"]}
    if row.video is not None:
        from florence.data.importing.videos import stored_video

        extension, data, meta = stored_video(row, _read(row.video), settings)
        members[extension] = data
        meta["sha256"] = hashlib.sha256(data).hexdigest()
    copied = {extension: _read(value) for extension, value in row.files.items()}
    if row.text is not None:
        members["txt"] = row.text.encode()
        meta = {"caption": row.text, **meta}
    if row.meta is not None:
        meta = {**row.meta, **meta}
        if row.source:
            meta["source"] = row.source
        members["json"] = json.dumps(meta, ensure_ascii=False).encode()
    if row.class_index is not None:
        members["cls"] = str(row.class_index).encode()
    if checked is None:
        return Made({**members, **copied}, _box_count({**members, **copied}.get("json", b"")))
    broken = tuple(BrokenRow(row.where, reason) for reason in checked.broken)
    return Made({**members, **copied}, len(checked.record.boxes), broken)


def _box_count(record: bytes) -> int:
    """How many boxes a JSON member lists."""
    if b'"boxes"' not in record:
        return 0
    try:
        boxes = json.loads(record).get("boxes")
    except (ValueError, AttributeError):
        return 0
    return len(boxes) if isinstance(boxes, list) else 0


def _read(value: Bytes) -> bytes:
    return value if isinstance(value, bytes) else value.read()


def _image(data: bytes, settings: ImportSettings) -> tuple[bytes, Image.Image, tuple[int, int]]:
    """The bytes to store, the opened image that they are, and its size as it was found."""
    image = open_image(data)
    size, side = image.size, settings.shorter_side
    if side is None or min(image.size) <= side:
        if settings.decode:
            load_image(open_image(data))
        return data, image, size
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    small = load_image(image, (2 * width, 2 * height)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=settings.quality)
    return buffer.getvalue(), open_image(buffer.getvalue()), size
