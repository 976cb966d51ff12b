"""What drives the parameters: one interface, plain torch or DeepSpeed behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from florence.checkpoint.fragment import Fragment, TensorReader
from florence.config import Precision
from florence.distributed.restoring import OnProgress
from florence.models.precision import autocast


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; the same on every rank."""

    loss: float
    """Mean over ranks: the loss of the global batch. May be non-finite if the step was skipped."""
    grad_norm: float
    """Global norm of the gradient before clipping; non-finite if the step was skipped."""
    skipped: bool
    """Loss or gradient was not finite on some rank: parameters, moments and buffers were left
    alone."""
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    """What the objective tells about this rank's samples: detached scalars by name."""


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
        """This rank's share of ``model/``, ``exp_avg/`` and ``exp_avg_sq/``.

        Over all ranks every element is there exactly once, of frozen parameters and buffers too.
        Names and offsets are those of the model's parameters, whatever the engine, so that any
        engine on any number of ranks can restore them. Not collective.
        """
        ...

    def restore(self, read: TensorReader, on_progress: OnProgress | None = None) -> None:
        """Take model and moments from a checkpoint; told bytes done and in all on the way.

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
        """Whole parameters and buffers by name, copies on the CPU; empty on ranks other than 0.

        Floating-point tensors are fp32, others keep their dtype.
        """
        ...

    def inference(self) -> AbstractContextManager[nn.Module]:
        """The model in evaluation mode and without gradients, between two steps.

        Under ZeRO-3 every call of a module gathers its parameters from all ranks, so all ranks must
        make the same calls in the same order. Neither the mode nor training changes by it.
        """
        ...


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """No gradients, dropout and drop-path while the block runs; modes are as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


class PrecisionModule(nn.Module):
    """Runs a model's forward under autocast; the module that engines wrap.

    Inside the module because DeepSpeed switches off an autocast around it. Each call has a context
    of its own, so that weights cast without gradients never serve a pass that needs them.
    """

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.model = model
        self._precision = precision

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The model's output; its matrix products are computed in the precision."""
        device = next(self.model.parameters()).device.type
        with autocast(device, self._precision):
            return self.model(*inputs, **named)
