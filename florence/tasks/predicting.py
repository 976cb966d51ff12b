"""What predictors of every task share: reading images from rows, naming what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from florence.data.images import BrokenImageError, decode
from florence.data.transforms import eval_transform
from florence.models.stored import ModelCard

BATCH = 64


class BadRowError(ValueError):
    """A value of a row that cannot be used; the message names row and column."""


def image_batches(
    rows: Sequence[Mapping[str, Any]], card: ModelCard, *, batch_size: int = BATCH
) -> Iterator[Tensor]:
    """The rows' images as the model saw images in training: fp32 ``(b, 3, R, R)``.

    Images are decoded batch by batch, so that many large ones need the memory of a few.

    Raises:
        BadRowError: a row has no image, or one that cannot be read.
    """
    transform = eval_transform(card.resolution, card.mean, card.std)
    for start in range(0, len(rows), batch_size):
        part = range(start, min(start + batch_size, len(rows)))
        yield torch.stack([transform(image_of(rows[number], number)) for number in part])


def image_of(row: Mapping[str, Any], number: int) -> Image.Image:
    """A row's image in RGB: the bytes of a file, or a Pillow image."""
    value = row.get("image")
    if isinstance(value, Image.Image):
        return value if value.mode == "RGB" else value.convert("RGB")
    if not isinstance(value, bytes):
        raise BadRowError(f"row {number}: image must be a JPEG, PNG or WebP file")
    try:
        return decode(value)
    except BrokenImageError as error:
        raise BadRowError(f"row {number}: image: {error}") from None


def text_list(value: Any, where: str) -> tuple[str, ...]:
    """A list of different texts; ``None`` is an empty one.

    Raises:
        BadRowError: it is none, or a text comes twice.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if value is None or (isinstance(value, float) and value != value):
        return ()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise BadRowError(f"{where} must be a list of texts")
    texts = tuple(str(text) for text in value)
    for text in texts:
        if texts.count(text) > 1:
            raise BadRowError(f"{where}: texts must differ from each other, '{text}' comes twice")
    return texts


def ranked(labels: Sequence[str], probabilities: Tensor) -> dict[str, Any]:
    """An answer: the most probable label, its probability, and all of them, best first."""
    pairs = sorted(
        zip(labels, probabilities.tolist(), strict=True), key=lambda pair: pair[1], reverse=True
    )
    best, probability = pairs[0]
    return {"label": best, "probability": probability, "probabilities": dict(pairs)}
