"""Trained models as files: ``model.safetensors`` for the weights, ``config.json`` for the rest.

Neither format can run code when it is read. A stage that starts from a model takes the parts it
needs: :func:`read_stored` once, then :func:`load_tower` for each part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from florence.checkpoint import committed_model
from florence.config.model import Attention
from florence.errors import DataError
from florence.models.card import CONTRASTIVE, ModelCard, card_bytes, parse_card
from florence.models.meta import on_meta
from florence.models.names_v1 import renamed_from_version_1
from florence.models.two_tower import TwoTower
from florence.models.window_resize import resize_windows
from florence.storage import FolderStorage

__all__ = [
    "CARD",
    "CONTRASTIVE",
    "WEIGHTS",
    "ModelCard",
    "StoredModel",
    "load_tower",
    "model_bytes",
    "read_folder",
    "read_stored",
    "save_model",
    "take",
    "two_tower_of",
]

WEIGHTS = "model.safetensors"
CARD = "config.json"


@dataclass(frozen=True)
class StoredModel:
    """A model that was read, not yet built: where from, its card, its tensors on the CPU."""

    uri: str
    card: ModelCard
    state: dict[str, Tensor]


def model_bytes(state: dict[str, Tensor], card: ModelCard) -> dict[str, bytes]:
    """The files of a model, by name.

    Args:
        state: parameters by name, on any device.
        card: what the state is the state of.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    return {WEIGHTS: save(weights), CARD: card_bytes(card)}


def save_model(folder: Path, model: nn.Module, card: ModelCard) -> None:
    """Write a model's two files; each appears whole or not at all, the card last."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in model_bytes(model.state_dict(), card).items():
        partial = folder / f".{name}.{os.getpid()}"
        partial.write_bytes(content)
        partial.replace(folder / name)


def read_stored(read: Callable[[str], bytes], source: str) -> StoredModel:
    """A model of any task, from wherever ``read`` finds a file of a name.

    Files of card version 1 are brought up to date, names of parameters too.

    Args:
        read: the content of the file of that name; its own errors pass through.
        source: what messages call the place.

    Raises:
        DataError: a file is broken or a later version's; the message names it.
    """
    card, version = parse_card(read(CARD), f"{source}/{CARD}")
    state = _parse_weights(read(WEIGHTS), f"{source}/{WEIGHTS}")
    if version == 1:
        state = renamed_from_version_1(state)
    return StoredModel(source, card, state)


def read_folder(folder: Path) -> StoredModel:
    """:func:`read_stored` of a folder; a file that cannot be read is a ``DataError`` too.

    The folder is that of a model's two files, a stage's artifacts, or their ``model/``.
    """
    final = committed_model(FolderStorage(folder))
    if final is not None:
        return read_stored(final.read, final.uri)

    def read(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except OSError as error:
            raise DataError(
                f"{folder / name}: cannot read this part of the model ({error.strerror}): "
                "give the folder of a trained model"
            ) from error

    return read_stored(read, str(folder))


def two_tower_of(
    stored: StoredModel, *, device: str = "cpu", attention: Attention | None = None
) -> TwoTower:
    """The two-tower model of a contrastive task, ready for evaluation, with tensors of its own.

    Args:
        stored: a model whose card says ``contrastive``.
        device: where the model goes.
        attention: implementation of window attention; the card's where None.

    Raises:
        DataError: the card is another task's, or the weights do not fit it.
    """
    card = stored.card
    if card.task != CONTRASTIVE:
        raise DataError(
            f"{stored.uri}: a model of task '{card.task}', and this needs two towers: "
            f"give a model of task '{CONTRASTIVE}'"
        )
    image = card.architecture.image
    if attention is not None:
        image = image.model_copy(update={"attention": attention})
    with on_meta():
        model = TwoTower(card.architecture.model_copy(update={"image": image}), window=card.window)
    expected = model.state_dict()
    _check_fit(stored.state, expected, stored.uri)
    _assign(model, stored.state, expected)
    return model.to(device).eval()


def take(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a state under ``prefix``, by names without it: ``take(state, "image")``.

    The tensors are the same ones. An empty prefix takes everything.
    """
    if not prefix:
        return dict(state)
    start = f"{prefix}."
    return {name[len(start) :]: value for name, value in state.items() if name.startswith(start)}


def load_tower(module: nn.Module, stored: StoredModel, prefix: str) -> tuple[str, ...]:
    """Give ``module`` the stored weights under ``prefix``, windows resized to the module's.

    A module on the meta device becomes real, on the CPU; any other keeps its tensors, its device
    and its dtype. The module never shares memory with ``stored``.

    Args:
        module: ``CoSwin``, ``TextTransformer``, a whole model (prefix ``""``), …
        stored: a model that has this part, of whatever task.
        prefix: ``image``, ``text``, ``head``, or nothing for the whole.

    Returns:
        Stored names under the prefix that the module has no place for.

    Raises:
        DataError: a parameter of the module is missing in the model or has another shape.
    """
    expected = module.state_dict()
    state = resize_windows(take(stored.state, prefix), module)
    unused = tuple(sorted(state.keys() - expected.keys()))
    state = {name: state[name] for name in expected if name in state}
    _check_fit(state, expected, stored.uri, prefix)
    _assign(module, state, expected)
    return unused


def _assign(module: nn.Module, state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Load a state that fits: in place, or as copies where the module has no tensors."""
    on_meta = any(value.is_meta for value in expected.values())
    if on_meta:
        state = {
            name: value.to(expected[name].dtype, copy=True).contiguous()
            for name, value in state.items()
        }
    module.load_state_dict(state, assign=on_meta)


def _parse_weights(content: bytes, uri: str) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load(content)
    except SafetensorError as error:
        raise DataError(
            f"{uri}: not a whole safetensors file ({error}): copy or write the model again"
        ) from error
    return weights


def _check_fit(
    state: dict[str, Tensor], expected: dict[str, Tensor], source: str, prefix: str = ""
) -> None:
    start = f"{prefix}." if prefix else ""
    wrong = [
        f"'{start}{name}' is {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
        or state[name].is_floating_point() != expected[name].is_floating_point()
    ]
    problems = [
        *(f"'{start}{name}' is missing" for name in sorted(expected.keys() - state.keys())),
        *(f"'{start}{name}' is unknown" for name in sorted(state.keys() - expected.keys())),
        *wrong,
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise DataError(
            f"{source}/{WEIGHTS}: does not fit the architecture in {CARD}: {problems[0]}{more}: "
            "use the two files of one model"
        )
