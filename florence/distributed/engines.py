"""Choose an engine and build it."""

from __future__ import annotations

import importlib.util
from typing import Any

from torch import nn

from florence.config import EngineKind, Pretrain
from florence.distributed.engine import Engine
from florence.distributed.objective import Objective
from florence.distributed.torch_engine import TorchEngine
from florence.distributed.world import World
from florence.errors import ConfigurationError, MissingExtraError
from florence.models.two_tower import no_decay_names


def resolve_engine(
    kind: EngineKind, world: World, cuda: bool, deepspeed_installed: bool
) -> EngineKind:
    """What ``auto`` means: torch for one process without CUDA, else deepspeed if installed."""
    if kind is not EngineKind.AUTO:
        return kind
    if world.size == 1 and not cuda:
        return EngineKind.TORCH
    return EngineKind.DEEPSPEED if deepspeed_installed else EngineKind.TORCH


def make_engine(
    kind: EngineKind,
    model: nn.Module,
    settings: Pretrain,
    objective: Objective[Any],
    world: World,
) -> Engine:
    """The engine that trains ``model``, moved to the world's device, as ``settings`` say.

    Raises:
        MissingExtraError: DeepSpeed is asked for and not installed.
        ConfigurationError: the batch cannot be shared by the ranks, or not be cut into the chunks.
    """
    check_batch(settings, world)
    deepspeed_installed = importlib.util.find_spec("deepspeed") is not None
    kind = resolve_engine(kind, world, world.device.type == "cuda", deepspeed_installed)
    no_decay = no_decay_names(model)
    if kind is EngineKind.DEEPSPEED:
        if not deepspeed_installed:
            raise MissingExtraError("deepspeed", "deepspeed")
        # Importing DeepSpeed takes ten seconds and more: only whoever uses it should wait.
        from florence.distributed.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, settings, objective, world, no_decay=no_decay)
    return TorchEngine(model, settings, objective, world, no_decay=no_decay)


def check_batch(settings: Pretrain, world: World) -> None:
    """Refuse a global batch that does not divide over the ranks, or has fewer rows than chunks."""
    if settings.batch_size % world.size:
        raise ConfigurationError(
            f"batchSize={settings.batch_size} does not divide over {world.size} processes: "
            f"use a multiple of {world.size}"
        )
    rows = settings.batch_size // world.size
    if settings.gradient_cache_chunks > rows:
        raise ConfigurationError(
            f"gradientCacheChunks={settings.gradient_cache_chunks} is more than the {rows} samples "
            f"of a rank: use at most {rows}"
        )
