"""Decoding images with Pillow: the one decoder and the one limit, in training and in serving."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

MOST_PIXELS = 1 << 26
"""67 million pixels. A decoded image with transparency and its copy in RGB take 7 bytes a pixel:
470 MB in a process that decodes, of which a node has dozens. Pillow's own limit is 179 million, and
a file of 700 kB can reach it. Cameras make fewer than 67 million; what has more is a scan, a
panorama or an attack, and is wanted smaller anyway."""

_SIGNATURES = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile}


class BrokenImageError(ValueError):
    """Bytes that are not a whole image of a kind and size that can be read."""


def open_image(data: bytes) -> Image.Image:
    """The image with its header read and its pixels not yet decoded: ``size`` is known.

    Raises:
        BrokenImageError: not a JPEG, PNG or WebP file, or of more than ``MOST_PIXELS`` pixels.
    """
    image = _read_header(data)
    if image.width * image.height > MOST_PIXELS:
        raise BrokenImageError(
            f"image of {image.width} x {image.height} pixels is larger than the limit of "
            f"{MOST_PIXELS} pixels: make it smaller"
        )
    return image


def load_image(image: Image.Image, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The opened image in RGB, fully decoded; samples of 16 bits are scaled to 8, not clipped.

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
    except Exception as error:  # Pillow's parsers raise anything
        raise _broken(error) from error


def decode(data: bytes) -> Image.Image:
    """The whole image in RGB, of at most ``MOST_PIXELS``. Raises :class:`BrokenImageError`."""
    return load_image(open_image(data))


def _read_header(data: bytes) -> ImageFile:
    # Not Image.open: it would check Pillow's limit, a global of the process, before ours.
    reader = next((r for start, r in _SIGNATURES.items() if data.startswith(start)), None)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        reader = WebPImageFile
    if reader is None:
        reason = "not a JPEG, PNG or WebP file" if data else "the file is empty"
        raise BrokenImageError(f"broken image: {reason}")
    try:
        return reader(io.BytesIO(data))
    except Exception as error:  # as above
        raise _broken(error) from error


def _broken(error: Exception) -> BrokenImageError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return BrokenImageError(f"broken image: {reason}")
