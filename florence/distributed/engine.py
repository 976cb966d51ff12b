"""What drives the parameters: one interface, plain torch or DeepSpeed behind it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment, TensorReader
from florence.config import EngineKind, Precision, Pretrain
from florence.distributed.objective import Objective
from florence.distributed.world import World
from florence.errors import ConfigurationError, MissingExtraError
from florence.models.two_tower import no_decay_names


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; the same on every rank."""

    loss: float
    """Mean over ranks: the loss of the global batch. May be non-finite if the step was skipped."""
    grad_norm: float
    """Global norm of the gradient before clipping; non-finite if the step was skipped."""
    skipped: bool
    """Loss or gradient was not finite on some rank: parameters and moments were left alone."""
    scale: float
    """What the logits were multiplied by in this step."""


class Engine(Protocol):
    """Owns model, optimizer and precision; every method is collective unless it says otherwise."""

    name: str
    device: torch.device

    @property
    def model(self) -> nn.Module:
        """The model itself, not wrapped; its parameters may be sharded (ZeRO-3). Not collective."""
        ...

    def step(self, batch: Any, *, lr: float) -> StepResult:
        """One optimizer step on this rank's rows of the global batch."""
        ...

    def fragments(self) -> list[Fragment]:
        """A copy of this rank's share of ``model/``, ``exp_avg/`` and ``exp_avg_sq/``.

        Over all ranks every element is there exactly once. Names and offsets are those of the
        model's parameters, whatever the engine, so that any engine on any number of ranks can
        restore them. Not collective.
        """
        ...

    def restore(self, read: TensorReader) -> None:
        """Take model and moments from a checkpoint.

        Raises:
            DataError: a tensor is missing or has another shape.
        """
        ...

    def counters(self) -> dict[str, float | int]:
        """Optimizer steps taken and the state of the loss scale. Not collective."""
        ...

    def restore_counters(self, counters: Mapping[str, float | int]) -> None:
        """Continue from :meth:`counters`. Not collective."""
        ...

    def model_state(self) -> dict[str, Tensor]:
        """Whole parameters by name, copies in fp32 on the CPU, on every rank."""
        ...


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
    from florence.distributed.torch_engine import TorchEngine

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


_AUTOCAST = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


class PrecisionModule(nn.Module):
    """Runs a model's forward under autocast; the module that engines wrap.

    Inside the module because DeepSpeed switches off an autocast around it. Each call has a context
    of its own, so that weights cast without gradients never serve a pass that needs them.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._dtype = _AUTOCAST.get(precision)

    def forward(self, *inputs: Any) -> Any:
        """The model's output; its matrix products are computed in the precision."""
        device = next(self.model.parameters()).device.type
        with torch.autocast(device, dtype=self._dtype, enabled=self._dtype is not None):
            return self.model(*inputs)
