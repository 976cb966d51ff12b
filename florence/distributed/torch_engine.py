"""The engine without dependencies: one process, or DistributedDataParallel over several."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from florence.checkpoint.fragment import Fragment, TensorReader, share_of
from florence.config import Training
from florence.distributed.accumulation import accumulate_gradients
from florence.distributed.buffers import BufferGuard
from florence.distributed.engine import PrecisionModule, StepResult, evaluation_mode
from florence.distributed.objective import Objective
from florence.distributed.optimizer import GuardedAdamW, LossScale, initialise_moments
from florence.distributed.parameter_rules import (
    ParameterTraining,
    bounds,
    clamp,
    freeze,
    optimizer_groups,
    set_learning_rate,
)
from florence.distributed.restoring import OnProgress
from florence.distributed.training_state import cpu_copies, fill_whole, whole_tensors
from florence.distributed.world import World


class TorchEngine:
    """Every rank holds all parameters and moments; DDP averages gradients during the last backward.

    See :class:`florence.distributed.engine.Engine`.

    Args:
        training: how each parameter is trained, by name.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        settings: Training,
        objective: Objective[Any],
        world: World,
        *,
        training: Mapping[str, ParameterTraining],
    ) -> None:
        self.device = world.device
        self.model = model.to(world.device)
        self._world = world
        self._objective = objective
        self._chunks = settings.gradient_cache_chunks
        freeze(self.model, training)
        parameters = dict(self.model.named_parameters())
        self._bounded = [(parameters[name], most) for name, most in bounds(training).items()]
        self._buffers = BufferGuard(self.model, world)
        self._optimizer = GuardedAdamW(optimizer_groups(self.model, training), settings.optimizer)
        initialise_moments(self._optimizer, (p for p in model.parameters() if p.requires_grad))
        self._loss_scale = LossScale.of(settings.precision)
        self._steps = 0
        self._forward: nn.Module = PrecisionModule(self.model, settings.precision)
        if world.size > 1:
            self._forward = _distributed(self._forward, world)

    def step(self, batch: Any, *, lr: float) -> StepResult:
        """One optimizer step on this rank's rows of the global batch."""
        self._buffers.begin()
        loss = accumulate_gradients(
            self._objective,
            self._forward,
            batch.to(self.device),
            chunks=self._chunks,
            backward=self._backward,
            synchronise=self._synchronise,
            mean_over_ranks=self._world.all_reduce_mean,
        )
        optimizer = self._optimizer
        set_learning_rate(optimizer, lr)
        optimizer.loss_scale = self._loss_scale.value
        optimizer.step()
        optimizer.zero_grad()
        self._buffers.end(skipped=optimizer.skipped)
        self._loss_scale.update(overflow=optimizer.skipped)
        if not optimizer.skipped:
            self._steps += 1
            clamp(self._bounded)
        return StepResult(
            loss=float(loss.value),
            grad_norm=optimizer.grad_norm,
            skipped=optimizer.skipped,
            metrics=loss.metrics,
        )

    def fragments(self) -> list[Fragment]:
        """This rank's share of the state, views of live memory; see :class:`Engine`."""
        tensors = whole_tensors(self.model, self._optimizer)
        return share_of(tensors, self._world.rank, self._world.size)

    def restore(self, read: TensorReader, on_progress: OnProgress | None = None) -> None:
        """Take model and moments from a checkpoint; see :class:`Engine`."""
        fill_whole(
            whole_tensors(self.model, self._optimizer), read, self._world, on_progress=on_progress
        )

    def counters(self) -> dict[str, float | int]:
        """Optimizer steps taken and the state of the loss scale."""
        return {"optimizer_steps": self._steps, **self._loss_scale.counters()}

    def restore_counters(self, counters: Mapping[str, float | int]) -> None:
        """Continue from :meth:`counters`."""
        self._steps = int(counters["optimizer_steps"])
        for state in self._optimizer.state.values():
            state["step"].fill_(self._steps)
        self._loss_scale.restore(counters)

    def model_state(self) -> dict[str, Tensor]:
        """Whole parameters and buffers by name; see :class:`Engine`."""
        return cpu_copies(self.model.state_dict().items()) if self._world.is_first else {}

    @contextmanager
    def inference(self) -> Iterator[nn.Module]:
        """The model in evaluation mode; see :class:`Engine`."""
        with evaluation_mode(self.model):
            yield self.model

    def _backward(self, scalar: Tensor) -> None:
        (scalar * self._loss_scale.value).backward()  # type: ignore[no-untyped-call]

    def _synchronise(self, is_last: bool) -> AbstractContextManager[Any]:
        if is_last or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._forward.no_sync()


def _distributed(module: nn.Module, world: World) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # Newer versions of torch prefer a name that older ones do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            broadcast_buffers=False,  # BufferGuard does, once a step
            gradient_as_bucket_view=True,
        )
