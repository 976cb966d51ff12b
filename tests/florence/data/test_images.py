from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from florence.data import images
from florence.data.images import MOST_PIXELS, BrokenImageError, decode, load_image, open_image
from tests.florence.data.making import picture


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.fromarray(np.arange(0, 240, dtype=np.uint8).reshape(12, 20))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        image = grey.convert(mode)
    decoded = decode(file_of(image))
    assert (decoded.mode, decoded.size) == ("RGB", (20, 12))
    if mode != "1":
        assert np.abs(np.asarray(decoded)[..., 0].astype(int) - np.asarray(grey)).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@given(data=st.data())
def test_damage_is_a_broken_image_or_still_an_image(kind: str, data: st.DataObject) -> None:
    whole = bytearray(picture(3, 40, 30, kind))
    cut = data.draw(st.integers(0, len(whole)))
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        mode, reason = decode(bytes(whole[:cut])).mode, ""
    except BrokenImageError as error:
        mode, reason = "RGB", str(error)
    assert mode == "RGB"
    assert "\n" not in reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_cut_in_the_middle_is_broken(kind: str) -> None:
    whole = picture(3, 200, 150, kind)
    with pytest.raises(BrokenImageError):
        decode(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "ICO"])
def test_other_formats_are_not_even_parsed(kind: str) -> None:
    with pytest.raises(BrokenImageError, match="not a JPEG, PNG or WebP file"):
        decode(file_of(Image.new("RGB", (16, 16)), kind))


def test_a_large_jpeg_is_decoded_smaller_but_not_too_small() -> None:
    data = picture(1, 800, 600, "JPEG")
    assert load_image(open_image(data), (90, 70)).size == (100, 75)
    assert load_image(open_image(data), (101, 76)).size == (200, 150)
    assert load_image(open_image(data), (900, 700)).size == (800, 600)
    assert load_image(open_image(picture(1, 80, 60)), (9, 7)).size == (80, 60)


def header_only(width: int, height: int) -> bytes:
    """A PNG that says how large it is and stops there."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(chunk))
    data = b"IDAT"
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + crc
        + struct.pack(">I", 0) + data + struct.pack(">I", zlib.crc32(data))
    )  # fmt: skip


@pytest.mark.parametrize(
    "size", [(8193, 8192), (13_300, 13_300), (1, (1 << 26) + 1), (65_000,) * 2]
)
def test_too_many_pixels_are_refused_by_the_header_alone(size: tuple[int, int]) -> None:
    wanted = f"image of {size[0]} x {size[1]} pixels is larger than the limit of {MOST_PIXELS}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow has limits of its own and warns of them
        with pytest.raises(BrokenImageError, match=wanted):
            open_image(header_only(*size))
    assert open_image(header_only(8192, 8192)).size == (8192, 8192)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_limit_is_that_of_every_format(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = picture(1, 30, 20, kind)
    monkeypatch.setattr(images, "MOST_PIXELS", 600)
    assert decode(data).size == (30, 20)
    monkeypatch.setattr(images, "MOST_PIXELS", 599)
    with pytest.raises(BrokenImageError, match="30 x 20 pixels is larger than the limit of 599"):
        decode(data)


def test_sixteen_bits_are_scaled() -> None:
    values = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    decoded = np.asarray(decode(file_of(Image.fromarray(values))))
    assert np.array_equal(decoded[..., 0], values >> 8)
