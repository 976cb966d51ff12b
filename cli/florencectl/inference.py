"""Files that trained models are shown; importing this imports torch."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from florence.data.images import BrokenImageError, decode
from florence.errors import DataError


def decoded(path: Path, content: bytes | Image.Image) -> Image.Image:
    """An image file's picture in RGB; a file that is none is a DataError that names it."""
    if isinstance(content, Image.Image):
        return content
    try:
        return decode(content)
    except BrokenImageError as error:
        raise DataError(f"{path}: {error}") from None
