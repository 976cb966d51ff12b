"""The confusion matrix as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

MOST_COUNTS = 30
"""Classes up to which every cell shows its count; beyond, only the colour."""

MOST_LABELS = 60
"""Classes up to which every row is named; beyond, names would overlap."""

_LONGEST_NAME = 28


def confusion_picture(
    confusion: NDArray[np.int64], classes: Sequence[str], *, title: str = ""
) -> bytes:
    """Draw a confusion matrix: a row per true class, a column per predicted class.

    Colours show the fraction of a row, so that rare classes are as visible as frequent ones; cells
    show counts. No display, no global state of matplotlib.

    Args:
        confusion: ``(C, C)`` counts, ``[true, predicted]``.
        classes: C names.
        title: the heading.

    Returns:
        A PNG.
    """
    count = len(classes)
    side = 3.2 + 0.42 * count if count <= MOST_LABELS else 10.0
    figure = Figure(figsize=(side + 1.2, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    totals = confusion.sum(axis=1, keepdims=True)
    fractions = confusion / np.maximum(totals, 1)
    image = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, fraction=0.046, label="fraction of the true class")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)
    if count <= MOST_LABELS:
        names = [_shortened(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90 if count > 12 else 45, fontsize=9)
        axes.set_yticks(range(count), names, fontsize=9)
    if count <= MOST_COUNTS:
        for (row, column), number in np.ndenumerate(confusion):
            if number:
                shade = "white" if fractions[row, column] > 0.5 else "black"
                axes.text(
                    column, row, str(number), ha="center", va="center", color=shade, fontsize=8
                )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shortened(name: str) -> str:
    # "$" starts a formula in matplotlib, and a class name may well hold one.
    name = name.replace("$", r"\$")
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
