from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from florence.data.images import BrokenImageError, decode, load_image, open_image
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
