"""Properties of random operations on images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from florence.data.hashing import uniforms
from florence.data.rand_augment import OPERATIONS, rand_augment

UNCHANGED_AT_ZERO = sorted(set(OPERATIONS) - {"auto_contrast", "equalize"})


def image(seed: int, width: int = 13, height: int = 9) -> Image.Image:
    """Noise that uses the whole range of values."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@given(
    seed=st.integers(0, 50),
    key=st.integers(0, 2**64 - 1),
    operations=st.integers(0, 4),
    magnitude=st.floats(0, 10),
    width=st.integers(1, 20),
    height=st.integers(1, 20),
)
def test_the_result_is_an_image_of_the_same_size_and_a_function_of_the_draw(
    seed: int, key: int, operations: int, magnitude: float, width: int, height: int
) -> None:
    before = image(seed, width, height)
    copy = before.copy()
    results = [
        rand_augment(before, operations=operations, magnitude=magnitude, draw=uniforms(key))
        for _ in range(2)
    ]
    assert results[0].size == (width, height)
    assert results[0].mode == "RGB"
    assert results[0].tobytes() == results[1].tobytes()
    assert before.tobytes() == copy.tobytes()


@pytest.mark.parametrize("name", UNCHANGED_AT_ZERO)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_strength_changes_nothing(name: str, sign: float) -> None:
    before = image(1)
    assert OPERATIONS[name](before, sign * 0.0).tobytes() == before.tobytes()


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"identity"}))
def test_full_strength_changes_the_image(name: str) -> None:
    before = image(2, 40, 30).point([value // 2 + 30 for value in range(256)] * 3)
    assert OPERATIONS[name](before, 1.0).tobytes() != before.tobytes()


@pytest.mark.parametrize("name", ["rotate", "shear_x", "shear_y", "translate_x", "translate_y"])
def test_directions_are_opposite(name: str) -> None:
    """A mirrored image moved one way is the mirror image of what moves the other way."""
    before = image(3, 12, 12)
    flip = Image.Transpose.FLIP_LEFT_RIGHT
    if name == "translate_y":
        flip = Image.Transpose.FLIP_TOP_BOTTOM
    one = np.asarray(OPERATIONS[name](before, 0.5), int)
    other = np.asarray(OPERATIONS[name](before, -0.5), int)
    assert (one != other).any()
    if name.startswith("translate"):
        mirrored = OPERATIONS[name](before.transpose(flip), -0.5).transpose(flip)
        assert np.abs(np.asarray(mirrored, int) - one).mean() < 40


def test_known_values() -> None:
    grey = Image.new("RGB", (4, 4), (200, 100, 7))
    assert OPERATIONS["posterize"](grey, 1.0).getpixel((0, 0)) == (192, 96, 0)
    assert OPERATIONS["solarize"](grey, 0.5).getpixel((0, 0)) == (55, 100, 7)
    assert OPERATIONS["solarize"](grey, 1.0).getpixel((0, 0)) == (55, 155, 248)
    assert OPERATIONS["brightness"](grey, -1.0).getpixel((0, 0)) == (20, 10, 0)
    moved = OPERATIONS["translate_x"](Image.new("RGB", (20, 1), (9, 9, 9)), 1.0)
    columns = [moved.getpixel((x, 0)) for x in range(20)]
    assert columns.count((9, 9, 9)) == 11
    assert columns[-1] == (128, 128, 128)


def test_every_operation_is_drawn() -> None:
    drawn = set()
    names = list(OPERATIONS)
    for key in range(300):
        drawn.add(names[int(next(uniforms(key)) * len(names))])
    assert drawn == set(names)
