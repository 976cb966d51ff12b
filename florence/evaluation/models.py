"""What evaluations ask of a model: two small protocols, so that any tower or head will do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from florence.config import Architecture, Precision
from florence.models.precision import autocast
from florence.models.stored import ModelCard

__all__ = [
    "Classifier",
    "ImageTextEncoder",
    "Model",
    "ModelCard",
    "ScaledEncoder",
    "card_labels",
    "inference",
]


class Model(Protocol):
    """The part of ``nn.Module`` that evaluation needs."""

    def eval(self) -> Any:
        """Switch to evaluation mode."""

    def modules(self) -> Iterator[nn.Module]:
        """The module itself and all below it."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters; the first one's device is the model's."""


@runtime_checkable
class ImageTextEncoder(Model, Protocol):
    """A model with two towers. Embeddings are ``(B, D)`` fp32 of unit length."""

    architecture: Architecture

    def encode_image(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` normalised pixels to ``(B, D)``."""

    def encode_text(self, ids: Tensor) -> Tensor:
        """``(B, L)`` int64 token ids, padded with 0, to ``(B, D)``."""


class ScaledEncoder(ImageTextEncoder, Protocol):
    """A two-tower model that knows probabilities."""

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of what similarities are multiplied by."""


class Classifier(Model, Protocol):
    """A model with a head."""

    def __call__(self, images: Tensor) -> Tensor:
        """``(B, 3, R, R)`` normalised pixels to ``(B, C)`` logits."""


def card_labels(card: ModelCard) -> tuple[str, ...] | None:
    """The class names of a model's head, in the order of its outputs; None for a model without."""
    labels: Sequence[str] | None = getattr(card, "labels", None)
    return tuple(labels) if labels else None


@contextmanager
def inference(model: Model, precision: Precision = Precision.FP32) -> Iterator[torch.device]:
    """Evaluation mode, no gradients and autocast while the block runs; yields the model's device.

    The model's mode is restored afterwards, also when the block fails.
    """
    device = next(iter(model.parameters())).device
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with (
            torch.no_grad(),  # not inference_mode: a mask cached in it could not be trained with
            autocast(device.type, precision),
        ):
            yield device
    finally:
        for module, training in modes.items():
            module.training = training
