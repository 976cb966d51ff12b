"""Make one two-tower model of what checkpoints have, and say what became of every tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from florence.config.model import Architecture, architecture_of
from florence.errors import DataError
from florence.models.card import CONTRASTIVE, ModelCard
from florence.models.importing.checkpoint import read_checkpoint
from florence.models.importing.open_clip_text import is_clip, read_clip
from florence.models.importing.part import IMAGENET, Part
from florence.models.importing.settings import ImportSettings
from florence.models.importing.timm_swin import is_swin, read_swin
from florence.models.importing.unicl import is_unicl, read_unicl
from florence.models.two_tower import TwoTower, build_model
from florence.models.window_resize import resize_windows

_POSITIONS = "text.positional_embedding"
Parts = Sequence[tuple[Path, Part]]


@dataclass(frozen=True)
class ImportReport:
    """What became of every tensor; names are the model's, except those of ``unused``."""

    taken: tuple[str, ...]
    """As they were."""
    resized: tuple[str, ...]
    """Taken, and brought to another window or number of positions."""
    misfits: dict[str, str]
    """In a checkpoint with a shape the model has not; left fresh. Says both shapes."""
    fresh: tuple[str, ...]
    """In no checkpoint, so initialised from the seed."""
    unused: tuple[str, ...]
    """Of the checkpoints, without a place in the model, as ``FILE: name``."""


@dataclass(frozen=True)
class ImportedModel:
    """A model ready to be written, and how it came about."""

    model: TwoTower
    card: ModelCard
    report: ImportReport


def read_part(path: Path, settings: ImportSettings) -> Part:
    """What one checkpoint file gives, whichever project wrote it.

    Raises:
        DataError: the file cannot be read, or is of no project that is known here.
    """
    state = read_checkpoint(path)
    source = str(path)
    if is_unicl(state):
        return read_unicl(state, settings, source)
    if is_clip(state):
        return read_clip(state, settings, source)
    if is_swin(state):
        return read_swin(state, source)
    raise DataError(
        f"{path}: neither a Swin of timm's names, nor a CLIP text tower of open_clip's, nor UniCL: "
        f"its tensors begin with '{next(iter(state))}'"
    )


def import_model(sources: Sequence[Path], settings: ImportSettings) -> ImportedModel:
    """One two-tower model of all sources; what none has is initialised from the seed.

    Raises:
        DataError: a source cannot be read, or two have the same tower; names them.
        ConfigurationError: the settings name no preset, or do not fit the sources.
    """
    parts = [(path, read_part(path, settings)) for path in sources]
    _refuse_twice(parts)
    state = {name: value for _, part in parts for name, value in part.state.items()}
    architecture = _architecture([part for _, part in parts], state, settings)
    window = architecture.image.window
    model = build_model(architecture, seed=settings.seed)
    report = _fill(model, state, parts)
    pixels = next((part.pixels for _, part in parts if part.image), IMAGENET)
    card = ModelCard(
        task=CONTRASTIVE,
        architecture=architecture,
        window=window,
        resolution=settings.resolution or 32 * window,
        mean=settings.mean or pixels.mean,
        std=settings.std or pixels.std,
        trained={"importedFrom": ", ".join(path.name for path in sources)},
    )
    return ImportedModel(model.eval(), card, report)


def _refuse_twice(parts: Parts) -> None:
    for tower in ("image", "text"):
        having = [str(path) for path, part in parts if getattr(part, tower) is not None]
        if len(having) > 1:
            raise DataError(f"{' and '.join(having)} both have {tower} towers: give one of them")


def _architecture(
    parts: list[Part], state: dict[str, Tensor], settings: ImportSettings
) -> Architecture:
    preset = architecture_of(settings.preset)
    image = next((part.image for part in parts if part.image), preset.image)
    text = next((part.text for part in parts if part.text), preset.text)
    embed_dim = settings.embed_dim or preset.embed_dim
    if settings.embed_dim is None:
        if "text.text_projection" in state:
            embed_dim = state["text.text_projection"].shape[1]
        elif "image.projection.weight" in state:
            embed_dim = state["image.projection.weight"].shape[0]
    return Architecture(
        image=image.model_copy(update={"window": settings.window or image.window}),
        text=text.model_copy(update={"context": settings.context or text.context}),
        embed_dim=embed_dim,
    )


def _fill(model: TwoTower, state: dict[str, Tensor], parts: Parts) -> ImportReport:
    """Put what fits into the model; the rest of it keeps what it was initialised with."""
    expected = model.state_dict()
    known = {name: value for name, value in state.items() if name in expected}
    fitted = resize_windows(known, model)
    if _POSITIONS in fitted:
        fitted[_POSITIONS] = resize_positions(fitted[_POSITIONS], len(expected[_POSITIONS]))
    misfits = {
        name: f"{tuple(value.shape)} instead of {tuple(expected[name].shape)}"
        for name, value in fitted.items()
        if value.shape != expected[name].shape
    }
    loaded = {name: value for name, value in fitted.items() if name not in misfits}
    model.load_state_dict(loaded, strict=False)
    resized = tuple(sorted(name for name in loaded if loaded[name] is not state[name]))
    unused = [
        f"{path}: {name}"
        for path, part in parts
        for name in (*part.unused, *(name for name in part.state if name not in expected))
    ]
    return ImportReport(
        taken=tuple(sorted(loaded.keys() - set(resized))),
        resized=resized,
        misfits=misfits,
        fresh=tuple(sorted(expected.keys() - state.keys())),
        unused=tuple(unused),
    )


def resize_positions(positions: Tensor, count: int) -> Tensor:
    """Interpolate positional embeddings (L, W) linearly to (count, W)."""
    if len(positions) == count:
        return positions
    rows = positions.float().t()[None]
    resized = F.interpolate(rows, count, mode="linear", align_corners=False)
    return resized[0].t().contiguous().to(positions.dtype)
