"""The two towers of a stored model, for formats that describe nothing else."""

from __future__ import annotations

from florence.config.model import Attention
from florence.errors import ConfigurationError
from florence.models.card import CONTRASTIVE
from florence.models.stored import StoredModel, two_tower_of
from florence.models.two_tower import TwoTower


def encoders_of(
    stored: StoredModel, holds: str, lacks: str, *, attention: Attention | None = None
) -> TwoTower:
    """The model of two towers.

    Args:
        stored: any model.
        holds: which format is for such models, as the message says it.
        lacks: why it is not for others.
        attention: implementation of window attention; the card's where None.

    Raises:
        ConfigurationError: the model has not two towers.
        DataError: its weights do not fit its card.
    """
    if stored.card.task != CONTRASTIVE:
        raise ConfigurationError(
            f"{stored.uri}: {holds} models with two towers, and this one is of task "
            f"'{stored.card.task}', whose {lacks}: use --format safetensors, or florence.load"
        )
    return two_tower_of(stored, attention=attention)
