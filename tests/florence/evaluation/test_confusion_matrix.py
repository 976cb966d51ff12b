"""The picture of a confusion matrix."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from florence.evaluation.confusion_matrix import confusion_picture


def draw(confusion: np.ndarray, names: list[str]) -> np.ndarray:
    content = confusion_picture(confusion, names, title="held-out digits")
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("classes", [1, 2, 10, 45, 200])
def test_any_number_of_classes_gives_a_picture_of_bounded_size(classes: int) -> None:
    picture = draw(np.eye(classes, dtype=np.int64) * 7, [f"class {i}" for i in range(classes)])
    assert 200 < picture.shape[0] < 3500
    assert 200 < picture.shape[1] < 3500


def test_the_picture_shows_the_counts() -> None:
    names = ["zero", "one", "two"]
    good = np.diag([30, 40, 50])
    other = good.copy()
    other[0, 2], other[0, 0] = 15, 15
    assert not np.array_equal(draw(good, names), draw(other, names))
    # The diagonal of a perfect result is dark, a class never seen is not.
    dark = (draw(good, names).sum(axis=2) < 300).mean()
    empty = (draw(np.zeros((3, 3), dtype=np.int64), names).sum(axis=2) < 300).mean()
    assert dark > empty + 0.1


def test_names_that_look_like_formulas_are_text() -> None:
    draw(np.eye(2, dtype=np.int64), ["$1 bill $x^{", "a_b^c \\frac"])
