"""An image tower with a classifier on its features.

Shapes: B images, F features, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, Architecture, Attention
from florence.errors import DataError
from florence.models.image import CoSwin
from florence.models.meta import on_meta
from florence.models.stored import ModelCard, StoredModel, load_tower

CLASSIFICATION = "classification"
"""The task of such a model, as its card names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadShape:
    """What a head is built of; the ``head`` of a model's card.

    Attributes:
        classes: C, its outputs.
        hidden: width of the hidden layer; ``None`` makes it linear.
        dropout: probability that an input of the last layer is dropped.
        exclusive: whether an image has exactly one class: outputs are the logits of a softmax,
            else each is the logit of its own class.
    """

    classes: int
    hidden: int | None = None
    dropout: float = 0.0
    exclusive: bool = True

    def to_card(self) -> dict[str, Any]:
        """The values as JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, card: ModelCard, uri: str) -> Self:
        """The head that a card describes. Raises :class:`DataError` when it describes none."""
        known = {field.name for field in fields(cls)}
        values = card.head or {}
        if "classes" not in values or not values.keys() <= known:
            raise DataError(
                f"{uri}: a model of task '{card.task}' without a classifier that is known here: "
                f"give a model of task '{CLASSIFICATION}'"
            )
        return cls(**values)  # type: ignore[arg-type]


class ClassifierHead(nn.Module):
    """From features (B, F) to logits (B, C): ``fc``, or ``fc1``, GELU and ``fc2``."""

    def __init__(self, features: int, shape: HeadShape) -> None:
        super().__init__()
        self.dropout = nn.Dropout(shape.dropout)
        if shape.hidden is None:
            self.fc = nn.Linear(features, shape.classes)
        else:
            self.fc1 = nn.Linear(features, shape.hidden)
            self.act = nn.GELU()
            self.fc2 = nn.Linear(shape.hidden, shape.classes)
        self._is_linear = shape.hidden is None

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise: truncated normal of 0.02, zero biases."""
        for layer in (self.fc,) if self._is_linear else (self.fc1, self.fc2):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        if self._is_linear:
            logits: Tensor = self.fc(self.dropout(features))
        else:
            logits = self.fc2(self.dropout(self.act(self.fc1(features))))
        return logits


class ImageClassifier(nn.Module):
    """A classifier on the features that an image tower has before its projection.

    Parameters are ``image.*`` and ``head.*``. The projection takes no part; it stays with the
    tower, so that the tower can be used otherwise again.

    Args:
        image: the tower.
        head: the classifier.
        frozen_tower: compute features without gradients and without dropping blocks.
    """

    def __init__(self, image: CoSwin, head: ClassifierHead, *, frozen_tower: bool = False) -> None:
        super().__init__()
        self.image = image
        self.head = head
        self.frozen_tower = frozen_tower
        self.train()

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise the tower, then the head, drawing from ``generator``."""
        self.image.reset_parameters(generator)
        self.head.reset_parameters(generator)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen tower is always in the latter."""
        super().train(mode)
        if self.frozen_tower:
            self.image.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) floating point to logits (B, C)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_tower):
            features = self.image.features(images)
        logits: Tensor = self.head(features)
        return logits


def build_tower(
    architecture: Architecture,
    *,
    seed: int,
    window: int,
    source: StoredModel | None = None,
) -> CoSwin:
    """An image tower on the CPU with a stored model's weights, or fresh from the seed.

    Raises:
        DataError: the model has no such tower.
    """
    with on_meta():
        tower = CoSwin(architecture.image, architecture.embed_dim, window=window)
    if source is not None:
        load_tower(tower, source, "image")
        return tower
    tower.to_empty(device="cpu")
    tower.reset_parameters(torch.Generator().manual_seed(seed))
    return tower


def build_classifier(
    architecture: Architecture,
    shape: HeadShape,
    *,
    seed: int,
    window: int,
    checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    drop_path: float | None = None,
    frozen_tower: bool = False,
    init: bool = True,
) -> ImageClassifier:
    """A freshly initialised classifier on the CPU; a function of its arguments and nothing else.

    Args:
        init: whether parameters get values; not worth its time where others overwrite them.
    """
    with on_meta():
        model = ImageClassifier(
            CoSwin(
                architecture.image,
                architecture.embed_dim,
                window=window,
                checkpointing=checkpointing,
                drop_path=drop_path,
            ),
            ClassifierHead(8 * architecture.image.width, shape),
            frozen_tower=frozen_tower,
        )
    model.to_empty(device="cpu")
    if init:
        model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def classifier_of(
    stored: StoredModel, *, device: str = "cpu", attention: Attention | None = None
) -> ImageClassifier:
    """The classifier of a stored model, ready for evaluation, with tensors of its own.

    Args:
        stored: a model whose card describes a classifier.
        device: where the model goes.
        attention: implementation of window attention; the card's where None.

    Raises:
        DataError: the card describes no classifier, or the weights do not fit it.
    """
    card = stored.card
    shape = HeadShape.of(card, stored.uri)
    image = card.architecture.image
    if attention is not None:
        image = image.model_copy(update={"attention": attention})
    with on_meta():
        model = ImageClassifier(
            CoSwin(image, card.architecture.embed_dim, window=card.window),
            ClassifierHead(8 * card.architecture.image.width, shape),
        )
    load_tower(model, stored, "")
    return model.to(device).eval()
