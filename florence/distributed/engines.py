"""Choose an engine and build it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from torch import nn

from florence.config import EngineKind, Training
from florence.distributed.engine import Engine
from florence.distributed.objective import Objective
from florence.distributed.parameter_rules import ParameterRule, apply_rules
from florence.distributed.torch_engine import TorchEngine
from florence.distributed.world import World
from florence.errors import MissingExtraError


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
    settings: Training,
    objective: Objective[Any],
    world: World,
    *,
    rules: Sequence[ParameterRule] = (),
) -> Engine:
    """The engine that trains ``model``, moved to the world's device, as ``settings`` say.

    Args:
        rules: how parameters differ from each other in rate, decay and bounds.

    Raises:
        MissingExtraError: DeepSpeed is asked for and not installed.
        ConfigurationError: the batch cannot be shared by the ranks, or not be cut into the chunks.
    """
    settings.samples_per_process(world.size)
    training = apply_rules(model, rules, settings.optimizer)
    deepspeed_installed = importlib.util.find_spec("deepspeed") is not None
    kind = resolve_engine(kind, world, world.device.type == "cuda", deepspeed_installed)
    if kind is EngineKind.DEEPSPEED:
        if not deepspeed_installed:
            raise MissingExtraError("deepspeed", "deepspeed")
        # Importing DeepSpeed takes ten seconds and more: only whoever uses it should wait.
        from florence.distributed.deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(model, settings, objective, world, training=training)
    return TorchEngine(model, settings, objective, world, training=training)
