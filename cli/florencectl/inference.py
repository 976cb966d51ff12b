"""Trained models and the files they are shown; importing this imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from florence.checkpoint import committed_model
from florence.data.images import BrokenImageError, decode
from florence.data.transforms import eval_transform
from florence.errors import DataError
from florence.models.model_file import CARD, ModelCard, read_model
from florence.models.two_tower import TwoTower
from florence.storage import open_storage

BATCH = 64


def open_model(uri: str) -> tuple[TwoTower, ModelCard]:
    """The model in a folder or under an ``s3://`` prefix, ready for evaluation.

    That is a folder with a model's two files, or a stage's artifacts, whose final model is checked
    against its commit. An endpoint comes from ``AWS_ENDPOINT_URL``.

    Raises:
        DataError: there is no model, or it is broken.
        ConfigurationError: the URI or the credentials are wrong.
        TryAgainError: the network gave up.
    """
    storage = open_storage(uri.rstrip("/") or uri)
    final = committed_model(storage)
    if final is not None:
        return read_model(final.read, source=final.uri)
    if storage.size(CARD) is None:
        raise DataError(
            f"{storage.uri}: no model: there is no {CARD} in it and no commit of one; "
            "give a model's folder or the artifacts of a finished stage"
        )
    return read_model(storage.read, source=storage.uri)


def image_batches(
    paths: Sequence[Path], card: ModelCard, *, batch_size: int = BATCH
) -> Iterator[Tensor]:
    """The image files as the model saw images in training: fp32 ``(b, 3, R, R)``.

    Raises:
        DataError: a file is missing or no image; names it.
    """
    transform = eval_transform(card.resolution, card.mean, card.std)
    for start in range(0, len(paths), batch_size):
        part = paths[start : start + batch_size]
        yield torch.stack([transform(_read_image(path)) for path in part])


def read_file(path: Path) -> bytes:
    """A file's content; a file that cannot be read is a DataError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def _read_image(path: Path) -> Image.Image:
    try:
        return decode(read_file(path))
    except BrokenImageError as error:
        raise DataError(f"{path}: {error}") from None
