from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from florence.tasks.detection.answers import coco_results, picture
from florence.tasks.detection.drawing import (
    Labelled,
    colour_of,
    drawn,
    fitted,
    grid,
    text_place,
)

FONT = ImageFont.load_default(12)
LONG = "a very long name of a thing that no picture has enough room for " * 3


@pytest.mark.parametrize(
    "box", [(-50, -50, 10, 10), (90, 0, 300, 5), (0, 95, 20, 500), (5, 5, 5, 5)]
)
@pytest.mark.parametrize("size", [(40, 12), (99, 12), (150, 12), (40, 150)])
def test_a_text_lies_within_the_picture(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    x, y = text_place(box, size, (100, 100))
    assert x >= 0
    assert y >= 0
    assert x + size[0] <= max(100, size[0])
    assert y + size[1] <= max(100, size[1])


def test_a_text_stands_above_its_box_where_there_is_room() -> None:
    assert text_place((10, 40, 60, 90), (30, 12), (100, 100)) == (10, 28)
    assert text_place((10, 4, 60, 90), (30, 12), (100, 100)) == (10, 4)


@pytest.mark.parametrize("width", [0, 8, 40, 200])
def test_a_long_text_is_cut_to_the_width(width: float) -> None:
    short = fitted(LONG, FONT, width)
    assert not short or FONT.getlength(short) <= width
    assert LONG.startswith(short.rstrip("…"))
    assert fitted("cat", FONT, 200) == "cat"


def test_long_names_do_not_leave_the_picture() -> None:
    """A box at the right side, a name wider than the picture: it is cut and moved to the left."""
    image = Image.new("RGB", (160, 90), "white")
    result = drawn(image, [Labelled((150, 80, 400, 300), LONG, "#e6194b")])
    assert result.size == image.size
    pixels = np.asarray(result)
    assert (pixels[:, :20] != 255).any(), "the text begins at the left side"
    assert (pixels != np.asarray(image)).any(axis=2).mean() > 0.05
    assert np.asarray(image).min() == 255, "the image itself is left alone"


def test_the_border_of_a_box_has_its_colour() -> None:
    result = drawn(Image.new("RGB", (100, 100)), [Labelled((20, 30, 60, 80), "", "#ff0000")])
    assert result.getpixel((20, 50)) == (255, 0, 0)
    assert result.getpixel((40, 80)) == (255, 0, 0)
    assert result.getpixel((40, 50)) == (0, 0, 0)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_grid_has_a_cell_for_every_picture(count: int) -> None:
    pictures = [Image.new("RGB", (30 + 40 * n, 50), "black") for n in range(count)]
    made = np.asarray(Image.open(io.BytesIO(grid(pictures, columns=2, cell=64))))
    assert made.shape == (64 * max(-(-count // 2), 1), 128, 3)
    for number in range(count):
        row, column = divmod(number, 2)
        cell = made[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        assert (cell == 0).any()


def test_a_class_has_one_colour() -> None:
    names = ("cat", "dog")
    assert colour_of("cat", names) == colour_of("cat", names) != colour_of("dog", names)
    assert colour_of("a stranger", names).startswith("#")


ANSWER = {
    "boxes": [
        {"label": "cat", "class": 0, "score": 0.9, "box": [10.0, 20.5, 40.0, 80.0]},
        {"label": "dog", "class": 4, "score": 0.4, "box": [0.0, 0.0, 5.0, 5.0]},
    ]
}


def test_an_answer_as_cocos_results() -> None:
    first, second = coco_results("a.jpg", ANSWER)
    assert first == {
        "image_id": "a.jpg",
        "category_id": 1,
        "category": "cat",
        "bbox": [10.0, 20.5, 30.0, 59.5],
        "score": 0.9,
    }
    assert second["category_id"] == 5


def test_an_answer_as_a_picture() -> None:
    image = Image.new("RGB", (100, 100), "white")
    assert (np.asarray(picture(image, ANSWER)) != 255).any()
    assert np.array_equal(np.asarray(picture(image, {"boxes": []})), np.asarray(image))
