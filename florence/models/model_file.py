"""Trained models as files: ``model.safetensors`` for the weights, ``config.json`` for the rest.

Neither format can run code when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from florence.checkpoint.final_model import committed_model
from florence.config.base import Settings, first_problem, setting
from florence.config.model import Architecture, Attention
from florence.errors import DataError
from florence.models.two_tower import TwoTower
from florence.storage import FolderStorage

WEIGHTS = "model.safetensors"
CARD = "config.json"


class ModelCard(Settings):
    """Everything about a trained model but its weights."""

    schema_version: Literal[1] = setting(1, description="version of this file's format")
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
    templates: str | None = setting(None, description="templates that short texts were put into")
    trained: dict[str, str | int | float] = setting(
        {}, description="facts about the training: job, stage, step, samples"
    )


def model_bytes(state: dict[str, Tensor], card: ModelCard) -> dict[str, bytes]:
    """The files of a model, by name.

    Args:
        state: parameters by name, on any device.
        card: what the state is the state of.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return {
        WEIGHTS: save(weights),
        CARD: (json.dumps(card.wire(), indent=2) + "\n").encode(),
    }


def save_model(folder: Path, model: TwoTower, card: ModelCard) -> None:
    """Write a model's two files; each appears whole or not at all, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_bytes(model.state_dict(), card).items():
        partial = folder / f".{name}.{os.getpid()}"
        partial.write_bytes(content)
        partial.replace(folder / name)


def load_model(
    folder: Path, *, device: str = "cpu", attention: Attention | None = None
) -> tuple[TwoTower, ModelCard]:
    """Read a model that :func:`save_model` or a stage wrote, ready for evaluation.

    Args:
        folder: where the two files are, or a stage's artifacts, or its ``model/``.
        device: where the model goes.
        attention: implementation of window attention; the card's where None.

    Raises:
        DataError: a file is missing, broken, or does not fit the other; the message names it.
    """

    final = committed_model(FolderStorage(folder))
    if final is not None:
        return read_model(final.read, source=final.uri, device=device, attention=attention)

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{folder / name}: cannot read this part of the model ({error.strerror}): "
                "give the folder of a trained model"
            ) from error

    return read_model(read, source=str(folder), device=device, attention=attention)


def read_model(
    read: Callable[[str], bytes],
    *,
    source: str,
    device: str = "cpu",
    attention: Attention | None = None,
) -> tuple[TwoTower, ModelCard]:
    """Like :func:`load_model`, from wherever ``read`` finds a file of that name.

    ``source`` is what messages call the place; errors of ``read`` itself pass through.
    """
    card = _parse_card(read(CARD), f"{source}/{CARD}")
    image = card.architecture.image
    if attention is not None:
        image = image.model_copy(update={"attention": attention})
    with torch.device("meta"):
        model = TwoTower(card.architecture.model_copy(update={"image": image}), window=card.window)
    state = _parse_weights(read(WEIGHTS), f"{source}/{WEIGHTS}")
    _check_fit(state, model.state_dict(), f"{source}/{WEIGHTS}")
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return model.to(device).eval(), card


def _parse_card(content: bytes, uri: str) -> ModelCard:
    try:
        return ModelCard.model_validate_json(content)
    except ValidationError as error:
        raise DataError(
            f"{uri}: not a model's configuration: {first_problem(error)}: "
            "write the model again or use the version of florence that wrote it"
        ) from error


def _parse_weights(content: bytes, uri: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise DataError(
            f"{uri}: not a whole safetensors file ({error}): copy or write the model again"
        ) from error
    return weights


def _check_fit(state: dict[str, Tensor], expected: dict[str, Tensor], uri: str) -> None:
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    wrong = [
        f"'{name}' is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape or not state[name].is_floating_point()
    ]
    problems = [
        *(f"'{name}' is missing" for name in missing),
        *(f"'{name}' is unknown" for name in unknown),
        *wrong,
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(
            f"{uri}: does not fit the architecture in {CARD}: {problems[0]}{more}: "
            "use the two files of one model"
        )
