"""The card of a trained model, ``config.json``: everything about it but its weights.

Imports no torch: a card is read where a model is only talked about.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import JsonValue, ValidationError, field_validator

from florence.config.base import Settings, first_problem, setting
from florence.config.model import Architecture
from florence.errors import DataError
from florence.text.templates import BUILTIN, GAP

CONTRASTIVE = "contrastive"
"""The task of two towers and a temperature, which pretraining fits."""


class ModelCard(Settings):
    """What a model does, what it is built of, and how its inputs are made."""

    schema_version: Literal[2] = setting(2, description="version of this file's format")
    task: str = setting(
        description="what the model does: contrastive, classification, …", min_length=1
    )
    architecture: Architecture = setting(description="sizes of both towers")
    window: int = setting(
        description="side of the attention windows that the bias tables are made for",
        unit="tokens",
        ge=1,
    )
    resolution: int = setting(
        description="side of the images of the last training stage", unit="pixels", ge=1
    )
    mean: tuple[float, float, float] = setting(
        description="subtracted from the channels, which are in [0, 1]"
    )
    std: tuple[float, float, float] = setting(
        description="divides the channels after the mean is subtracted"
    )
    tokenizer: str = setting("clip-bpe-49408", description="name of the text's byte-pair coding")
    head: dict[str, JsonValue] | None = setting(
        None, description="the task's own settings of its head; none where it has no head"
    )
    labels: tuple[str, ...] = setting(
        (), description="names of the classes, in the order of the head's outputs"
    )
    templates: tuple[str, ...] = setting(
        (), description="sentences with {} that short texts were put into in training"
    )
    trained: dict[str, str | int | float] = setting(
        {}, description="facts about the training: job, stage, step, samples"
    )

    @field_validator("templates")
    @classmethod
    def _have_a_gap(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if GAP not in template:
                raise ValueError(f"'{template}' has no {GAP} where the text goes")
        return templates


def inherited_window(window: int | None, card: ModelCard | None, architecture: Architecture) -> int:
    """Side of the attention windows that a stage trains with, in tokens.

    Args:
        window: what the stage's settings say, if they do.
        card: of the model that the stage starts from, if it starts from one: its windows are kept.
        architecture: of the job; decides where nothing else does.
    """
    if window is not None:
        return window
    return architecture.image.window if card is None else card.window


def card_bytes(card: ModelCard) -> bytes:
    """The card as a JSON file."""
    return (json.dumps(card.wire(), indent=2) + "\n").encode()


def parse_card(content: bytes, uri: str) -> tuple[ModelCard, int]:
    """A card of this version or an earlier one, brought up to date, and the version it had.

    Args:
        content: the file.
        uri: what messages call it.

    Raises:
        DataError: it is no card, or a later version's; the message names file and field.
    """
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DataError(f"{uri}: not a model's configuration: {error}: copy it again") from error
    version = document.get("schemaVersion", 1) if isinstance(document, dict) else 2
    try:
        return ModelCard.model_validate_json(
            json.dumps(_from_version_1(document) if version == 1 else document)
        ), version
    except ValidationError as error:
        raise DataError(
            f"{uri}: not a model's configuration: {first_problem(error)}: "
            "write the model again or use the version of florence that wrote it"
        ) from error


def _from_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """Version 1 knew one task, and templates by the name of a list at most."""
    templates = BUILTIN.get(str(document.get("templates")), ())
    return document | {"schemaVersion": 2, "task": CONTRASTIVE, "templates": list(templates)}
