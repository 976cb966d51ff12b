"""What a classical classifier reaches on the same images: a support-vector machine on pixels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.svm import SVC

from florence.errors import DataError

SIDE = 32
"""Images are reduced to at most this side: an SVM's time is proportional to the pixels."""

GAMMA_SCALE = 2.3
PENALTY = 10.0
"""The kernel of scikit-learn's digits example (gamma 0.001 on 64 pixels of 0..16) is 2.3 times
``1 / (pixels * variance)``; written relative to that it fits any size and range. With C = 10 it is
stronger than with scikit-learn's defaults: 96.7 against 94.7 % on the last 397 of the 8 x 8 scans,
and 96.5 % on them enlarged to 32 x 32."""


def pixels(images: Iterable[Image.Image], side: int | None = None) -> NDArray[np.float32]:
    """Images as rows of grey values.

    Args:
        images: any modes and sizes.
        side: side of the square they are resized to. Default: the first image's longer side, at
            most ``SIDE``.

    Returns:
        ``(N, side * side)`` fp32 in [0, 1].
    """
    rows = []
    for image in images:
        side = side or min(SIDE, max(image.size))
        grey = image.convert("L")
        if grey.size != (side, side):
            grey = grey.resize((side, side), Image.Resampling.BOX)
        rows.append(np.asarray(grey, dtype=np.float32).ravel() / 255)
    if not rows:
        raise DataError("baseline: there are no images; check the data's URI")
    return np.stack(rows)


def svm_rbf(
    train: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test: NDArray[np.float32],
    test_labels: NDArray[np.int64],
) -> float:
    """Accuracy on the test rows of an SVM with a radial kernel fitted to the training rows.

    Args:
        train: ``(N, P)``, see :func:`pixels`.
        train_labels: ``(N,)`` class indices.
        test: ``(M, P)``.
        test_labels: ``(M,)`` class indices.

    Returns:
        The fraction of test rows that are classified right, in [0, 1].

    Raises:
        DataError: the training rows hold one class only, or the sizes differ.
    """
    if train.shape[1] != test.shape[1]:
        raise DataError(
            f"baseline: training images have {train.shape[1]} pixels, test images {test.shape[1]}"
        )
    if len(np.unique(train_labels)) < 2:
        raise DataError("baseline: the training images are all of one class; check baselineData")
    gamma = GAMMA_SCALE / (train.shape[1] * max(float(train.var()), 1e-12))
    machine = SVC(kernel="rbf", gamma=gamma, C=PENALTY).fit(train, train_labels)
    return float(machine.score(test, test_labels))
