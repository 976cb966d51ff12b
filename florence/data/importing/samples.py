"""From a row to the members of a sample: read, checked, described."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from florence.data.images import BrokenImageError, load_image, open_image
from florence.data.importing.rows import BrokenRow, Bytes, Row
from florence.data.importing.settings import ImportSettings
from florence.storage import MissingKeyError

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Made:
    """The members of a sample by extension."""

    members: dict[str, bytes]


def make_sample(row: Row | BrokenRow, settings: ImportSettings) -> Made | BrokenRow:
    """Read what a row names: the image's bytes as they are unless ``shorter_side`` shrinks it.

    Raises the storage's errors but a missing file, which breaks the row only.
    """
    if isinstance(row, BrokenRow):
        return row
    try:
        return Made(_members(row, settings))
    except MissingKeyError as error:
        return BrokenRow(row.where, f"{error.url} does not exist: add the file or remove the row")
    except BrokenImageError as error:
        what = "image" if row.video is None else "video"
        return BrokenRow(row.where, f"{error}: replace the {what} or remove the row")
    except UnicodeEncodeError:
        return BrokenRow(row.where, "its text is not Unicode: convert it to UTF-8")


def _members(row: Row, settings: ImportSettings) -> dict[str, bytes]:
    members: dict[str, bytes] = {}
    meta: dict[str, Any] = {}
    if row.image is not None:
        data, image = _image(_read(row.image), settings)
        members[_EXTENSIONS[str(image.format)]] = data
        meta = {"width": image.width, "height": image.height}
        meta["sha256"] = hashlib.sha256(data).hexdigest()
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
    return {**members, **copied}


def _read(value: Bytes) -> bytes:
    return value if isinstance(value, bytes) else value.read()


def _image(data: bytes, settings: ImportSettings) -> tuple[bytes, Image.Image]:
    """The bytes to store, and the opened image that they are."""
    image = open_image(data)
    side = settings.shorter_side
    if side is None or min(image.size) <= side:
        if settings.decode:
            load_image(open_image(data))
        return data, image
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    small = load_image(image, (2 * width, 2 * height)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=settings.quality)
    return buffer.getvalue(), open_image(buffer.getvalue())
