"""Boxes drawn into pictures, with their names and scores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

COLOURS = (
    "#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#800000",
    "#808000", "#000075", "#d81b60", "#2e7d32",
)  # fmt: skip
"""Dark enough for white letters on each."""
TRUTH = "#ffd400"
ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Labelled:
    """One box: x1 y1 x2 y2 in pixels, what is written on it, and its colour."""

    box: tuple[float, float, float, float]
    text: str
    colour: str


def drawn(image: Image.Image, boxes: Sequence[Labelled]) -> Image.Image:
    """A copy of the image with boxes and their texts, all of it within the image.

    A text stands above its box where there is room, else inside; one that is longer than the image
    is wide is cut off with an ellipsis. Boxes are drawn in their order, the last on top.
    """
    canvas = image.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    scale = max(canvas.size) / 640
    line = max(round(2 * scale), 1)
    font = ImageFont.load_default(max(round(12 * scale), 9))
    for each in boxes:
        x1, y1, x2, y2 = _within(each.box, canvas.size)
        draw.rectangle((x1, y1, x2, y2), outline=each.colour, width=line)
        _write(draw, font, each, (x1, y1, x2, y2), canvas.size)
    return canvas


def fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """The text, or as much of its beginning as is no wider than this, with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    cut = text
    while cut and font.getlength(cut + ELLIPSIS) > width:
        cut = cut[:-1]
    return cut + ELLIPSIS if cut else ""


def text_place(
    box: tuple[float, float, float, float], size: tuple[float, float], canvas: tuple[int, int]
) -> tuple[float, float]:
    """Upper left corner of a text of this size: above its box, or inside, within the canvas."""
    width, height = size
    x = min(max(box[0], 0), max(canvas[0] - width, 0))
    y = box[1] - height if box[1] >= height else box[1]
    return x, min(max(y, 0), max(canvas[1] - height, 0))


def grid(images: Sequence[Image.Image], *, columns: int, cell: int) -> bytes:
    """Pictures side by side, each fitted into a square cell of this many pixels: a PNG."""
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * cell, max(rows, 1) * cell), "white")
    for number, image in enumerate(images):
        small = image.copy()
        scale = (cell - 4) / max(small.size)
        small = small.resize(
            (max(round(small.width * scale), 1), max(round(small.height * scale), 1)),
            Image.Resampling.BICUBIC,
        )
        row, column = divmod(number, columns)
        left = column * cell + (cell - small.width) // 2
        canvas.paste(small, (left, row * cell + (cell - small.height) // 2))
    return png_of(canvas)


def png_of(image: Image.Image) -> bytes:
    """A picture as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def colour_of(name: str, names: Sequence[str]) -> str:
    """The colour of a class, the same in every picture of one list of names."""
    place = names.index(name) if name in names else sum(map(ord, name))
    return COLOURS[place % len(COLOURS)]


def _within(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The part of a box that is in the picture, at least a point of it."""
    width, height = size
    x1, y1 = min(max(box[0], 0), width - 1), min(max(box[1], 0), height - 1)
    return x1, y1, min(max(box[2], x1), width - 1), min(max(box[3], y1), height - 1)


def _write(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    each: Labelled,
    box: tuple[float, float, float, float],
    canvas: tuple[int, int],
) -> None:
    text = fitted(each.text, font, canvas[0] - 4)
    if not text:
        return
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 4, bottom - top + 4
    x, y = text_place(box, (width, height), canvas)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=each.colour)
    light = each.colour != TRUTH
    draw.text((x + 2 - left, y + 2 - top), text, fill="white" if light else "black", font=font)
