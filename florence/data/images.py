"""Decoding images with Pillow."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP")


class BrokenImageError(ValueError):
    """Bytes that are not a whole image of a kind that can be read."""


def open_image(data: bytes) -> Image.Image:
    """The image with its header read and its pixels not yet decoded: ``size`` is known.

    Raises:
        BrokenImageError: not a JPEG, PNG or WebP file.
    """
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:  # Pillow's parsers raise anything
        raise _broken(error, empty=not data) from error


def load_image(image: Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The opened image in RGB, fully decoded.

    Args:
        image: from :func:`open_image`.
        at_least: a (width, height) the caller needs; a JPEG may then be decoded at 1/2, 1/4 or 1/8
            scale as long as it is not smaller, which is up to twice as fast on large images.

    Raises:
        BrokenImageError: whatever is wrong with the bytes, a cut-off file included.
    """
    try:
        if at_least is not None:
            image.draft("RGB", at_least)
        image.load()
        if image.mode.startswith("I;16"):  # Pillow would clip 16 bits where they should be scaled
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        return image if image.mode == "RGB" else image.convert("RGB")  # which would copy
    except Exception as error:  # as above
        raise _broken(error, empty=False) from error


def decode(data: bytes) -> Image.Image:
    """The whole image in RGB. Raises :class:`BrokenImageError`."""
    return load_image(open_image(data))


def _broken(error: Exception, *, empty: bool) -> BrokenImageError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if empty:
        reason = "the file is empty"
    elif "cannot identify image file" in reason:
        reason = "not a JPEG, PNG or WebP file"
    return BrokenImageError(f"broken image: {reason}")
