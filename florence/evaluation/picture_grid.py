"""Images with what was said about them, as one picture to look at."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

COLUMNS = 4
_LINE = 34
_MOST_LINES = 8


def picture_grid(images: Sequence[Image.Image], texts: Sequence[str], *, title: str) -> bytes:
    """A PNG of at least one image in rows of four, each with its text below.

    Args:
        images: in RGB.
        texts: one for each image, of several lines.
        title: what stands above.
    """
    rows = -(-len(images) // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image, text in zip(axes.flat, images, texts, strict=False):
        axis.imshow(image)
        axis.text(
            0.0,
            -0.03,
            _wrapped(text),
            transform=axis.transAxes,
            verticalalignment="top",
            fontsize=7,
            parse_math=False,
        )
    figure.suptitle(title, fontsize=10)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def _wrapped(text: str) -> str:
    lines = [part for line in text.splitlines() for part in textwrap.wrap(line, _LINE)]
    return "\n".join(lines[:_MOST_LINES])
