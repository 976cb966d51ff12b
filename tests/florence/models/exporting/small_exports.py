"""Small models whose every weight shows in what they compute, as a stage left them."""

from __future__ import annotations

from typing import Any

from torch import nn

from florence.config.model import Architecture, Embedding
from florence.models.card import ModelCard
from florence.models.classifier import HeadShape, build_classifier
from florence.models.stored import StoredModel
from florence.models.two_tower import build_model
from tests import small_model
from tests.florence.models.references import randomise

URI = "runs/m"
LABELS = ("cat", "dog", "jay")


def architecture(embedding: Embedding = Embedding.CONV) -> Architecture:
    # Two blocks where the map is larger than a window: the second one's are shifted.
    changed = {"embedding": embedding, "depths": (2, 1, 1, 1)}
    image = small_model.NANO.image.model_copy(update=changed)
    return small_model.NANO.model_copy(update={"image": image})


def card(embedding: Embedding = Embedding.CONV, **changes: Any) -> ModelCard:
    known = {"architecture": architecture(embedding), "std": (0.2, 0.3, 0.4), **changes}
    return small_model.CARD.model_copy(update=known)


def two_towers(embedding: Embedding = Embedding.CONV, **changes: Any) -> StoredModel:
    about = card(embedding, **changes)
    return _stored(about, build_model(about.architecture, seed=0, window=about.window))


def classifier(
    embedding: Embedding = Embedding.CONV, *, hidden: int | None = None, **changes: Any
) -> StoredModel:
    shape = HeadShape(classes=len(LABELS), hidden=hidden)
    known = {"task": "classification", "head": shape.to_card(), "labels": LABELS, **changes}
    about = card(embedding, **known)
    return _stored(about, build_classifier(about.architecture, shape, seed=0, window=about.window))


def _stored(about: ModelCard, model: nn.Module) -> StoredModel:
    randomise(model)
    return StoredModel(URI, about, dict(model.state_dict()))
