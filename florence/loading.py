"""Trained models in Python: from a URI to predictions."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, DataError
from florence.kinds import model_task_named
from florence.models.opening import open_stored
from florence.models.stored import ModelCard, StoredModel
from florence.tasks.task import Predictor

ImageLike = str | Path | bytes | Image.Image


class LoadedModel:
    """A model that predicts; what it takes and answers depends on its task.

    Attributes:
        card: everything about the model but its weights.
        module: the torch module, in evaluation mode.
        predictor: the task's own interface, rows in and answers out.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.card: ModelCard = predictor.card
        self.module: nn.Module = predictor.module

    def predict(
        self, images: ImageLike | Sequence[ImageLike], **parameters: Any
    ) -> list[dict[str, Any]]:
        """An answer for every image.

        Args:
            images: one or many: paths, bytes of files, or Pillow images; of models that take
                videos, paths or bytes of those.
            parameters: of the model's task, such as ``labels=["cat", "dog"]``; of what stands in
                every row, such as ``question="how many?"``, one for all images or a list of one
                for each.

        Raises:
            ConfigurationError: the task has no such parameter; names those it has.
            DataError: a file cannot be read.
            ValueError: an image or a value is unusable; names the row.
        """
        known = [given.name for given in self.predictor.inputs.given]
        for name in parameters:
            if name not in known:
                raise ConfigurationError(
                    f"{self.card.task} models take no '{name}': use {', '.join(known) or 'none'}"
                )
        medium = self.predictor.inputs.medium
        rows: list[dict[str, Any]] = [{medium: content_of(image)} for image in _many(images)]
        named = {parameter.name for parameter in self.predictor.inputs.parameters}
        for name in parameters.keys() - named:
            for row, value in zip(rows, _each(name, parameters[name], len(rows)), strict=True):
                row[name] = value
        return self.predictor.predict(
            rows, {name: value for name, value in parameters.items() if name in named}
        )

    def embed_images(self, images: ImageLike | Sequence[ImageLike]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32, on the CPU.

        Raises:
            ConfigurationError: models of this task do not embed images.
        """
        embed = self._ability("embed_images", "images")
        result: Tensor = embed([content_of(image) for image in _many(images)])
        return result

    def embed_videos(self, videos: Sequence[bytes]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32, on the CPU, of the contents of video files.

        Raises:
            ConfigurationError: models of this task do not embed videos.
            ValueError: a video is unusable; names the row.
        """
        embed = self._ability("embed_videos", "videos")
        result: Tensor = embed(videos)
        return result

    def embed_texts(self, texts: str | Sequence[str]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32, on the CPU; their dot products with those of
        images are similarities.

        Raises:
            ConfigurationError: models of this task do not embed texts.
        """
        embed = self._ability("embed_texts", "texts")
        result: Tensor = embed([texts] if isinstance(texts, str) else list(texts))
        return result

    def _ability(self, name: str, what: str) -> Any:
        found = getattr(self.predictor, name, None)
        if found is None:
            raise ConfigurationError(f"{self.card.task} models do not embed {what}")
        return found


def load(
    uri: str | Path, *, device: str | None = None, s3: S3Settings | None = None
) -> LoadedModel:
    """The model in a folder, under an ``s3://`` prefix, or of a finished stage.

    Args:
        uri: a folder with a model's two files, or a stage's artifacts.
        device: such as ``cuda:1``; default: the GPU if there is one, else the CPU.
        s3: where ``s3://`` is; default: ``AWS_ENDPOINT_URL``.

    Raises:
        DataError: there is no model, or it is broken.
        ConfigurationError: the URI, the credentials or the task are wrong.
        TransientError: the network gave up.
    """
    chosen = _device(device)
    return LoadedModel(predictor_of(open_stored(str(uri), s3), chosen))


def _device(name: str | None) -> torch.device:
    """The device of that name, or the best there is."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"device '{name}' cannot be used here: {reason}") from None
    return device


def predictor_of(stored: StoredModel, device: torch.device) -> Predictor:
    """What predicts with a model, as its card's task says."""
    predictor: Predictor = pkgutil.resolve_name(model_task_named(stored.card.task).predictor)(
        stored, device
    )
    return predictor


def content_of(image: ImageLike) -> bytes | Image.Image:
    """A file's content, or what is no path as it stands."""
    if not isinstance(image, (str, Path)):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise DataError(f"{image}: cannot be read: {error.strerror}") from None


def _each(name: str, value: Any, count: int) -> Sequence[Any]:
    """A column's value for every row."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise ConfigurationError(
            f"{name}: {len(value)} values for {count} images: give one for each, or one for all"
        )
    return value


def _many(images: ImageLike | Sequence[ImageLike]) -> Sequence[ImageLike]:
    return [images] if isinstance(images, (str, Path, bytes, Image.Image)) else images
