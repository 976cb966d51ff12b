"""The support-vector machine on raw pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.svm import SVC

from florence.errors import DataError
from florence.evaluation.baseline import pixels, svm_rbf


def test_it_is_no_weaker_than_the_classical_machine_on_the_digits() -> None:
    digits = load_digits()
    images, labels = digits.data.astype(np.float32), digits.target.astype(np.int64)
    train, test = slice(0, 1400), slice(1400, None)
    classical = SVC(gamma=0.001).fit(images[train], labels[train])
    reached = svm_rbf(images[train], labels[train], images[test], labels[test])
    assert reached >= classical.score(images[test], labels[test]) > 0.95
    # The range of the pixels does not matter.
    scaled = images / 16
    assert svm_rbf(scaled[train], labels[train], scaled[test], labels[test]) == reached


def test_it_separates_what_no_line_separates() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (800, 2)).astype(np.float32)
    labels = (points[:, 0] * points[:, 1] > 0).astype(np.int64)
    assert svm_rbf(points[:600], labels[:600], points[600:], labels[600:]) > 0.93


def test_pixels_are_grey_and_of_one_size() -> None:
    colour = Image.new("RGB", (4, 4), (255, 0, 0))
    large = Image.new("L", (16, 8), 255)
    rows = pixels([colour, large])
    assert rows.shape == (2, 16)
    np.testing.assert_allclose(rows[0], 76 / 255)
    np.testing.assert_allclose(rows[1], 1)
    assert pixels([Image.new("L", (640, 480))]).shape == (1, 1024)
    assert pixels([colour], side=8).shape == (1, 64)


def test_unusable_training_images_are_refused() -> None:
    one = np.zeros((3, 4), dtype=np.float32)
    labels = np.zeros(3, dtype=np.int64)
    with pytest.raises(DataError, match="all of one class"):
        svm_rbf(one, labels, one, labels)
    with pytest.raises(DataError, match="4 pixels, test images 2"):
        svm_rbf(one, labels, one[:, :2], labels)
    with pytest.raises(DataError, match="no images"):
        pixels([])
