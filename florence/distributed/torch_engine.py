"""The engine without dependencies: one process, or DistributedDataParallel over several."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from florence.checkpoint.fragment import Fragment, TensorReader
from florence.config import Pretrain
from florence.distributed.engine import PrecisionModule, StepResult
from florence.distributed.gradient_cache import accumulate_gradients
from florence.distributed.objective import Objective
from florence.distributed.optimizer import (
    GuardedAdamW,
    LossScale,
    initialise_moments,
    parameter_groups,
)
from florence.distributed.training_state import (
    buffers_of,
    cpu_copies,
    fill_whole,
    fragments_of,
    whole_tensors,
)
from florence.distributed.world import World


class TorchEngine:
    """Every rank holds all parameters and moments; DDP averages gradients during the last backward.

    See :class:`florence.distributed.engine.Engine`. ``model.logit_scale`` is clamped to
    ln(``settings.loss.max_scale``) after each step.
    """

    name = "torch"

    def __init__(
        self,
        model: nn.Module,
        settings: Pretrain,
        objective: Objective[Any],
        world: World,
        *,
        no_decay: set[str],
    ) -> None:
        self.device = world.device
        self.model = model.to(world.device)
        self._world = world
        self._objective = objective
        self._chunks = settings.gradient_cache_chunks
        self._logit_scale_limit = math.log(settings.loss.max_scale)
        self._optimizer = GuardedAdamW(
            parameter_groups(self.model, settings.optimizer, no_decay), settings.optimizer
        )
        initialise_moments(self._optimizer, (p for p in model.parameters() if p.requires_grad))
        self._loss_scale = LossScale.of(settings.precision)
        self._steps = 0
        self._forward: nn.Module = PrecisionModule(self.model, settings.precision)
        if world.size > 1:
            self._forward = _distributed(self._forward, world)

    def step(self, batch: Any, *, lr: float) -> StepResult:
        """One optimizer step on this rank's rows of the global batch."""
        gradients = accumulate_gradients(
            self._objective,
            self._forward,
            batch.to(self.device),
            chunks=self._chunks,
            backward=self._backward,
            synchronise=self._synchronise,
            mean_over_ranks=self._world.all_reduce_mean,
        )
        optimizer = self._optimizer
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.loss_scale = self._loss_scale.value
        optimizer.step()
        optimizer.zero_grad()
        self._loss_scale.update(overflow=optimizer.skipped)
        if not optimizer.skipped:
            self._steps += 1
            self._clamp_logit_scale()
        return StepResult(
            loss=float(gradients.loss),
            grad_norm=optimizer.grad_norm,
            skipped=optimizer.skipped,
            scale=float(gradients.scale),
        )

    def fragments(self) -> list[Fragment]:
        """This rank's share of the state, views of live memory; see :class:`Engine`."""
        tensors = whole_tensors(self.model, self._optimizer)
        return fragments_of(tensors, self._world, first_only=buffers_of(self.model))

    def restore(self, read: TensorReader) -> None:
        """Take model and moments from a checkpoint."""
        tensors = whole_tensors(self.model, self._optimizer)
        fill_whole(tensors, read, self._world, optional=buffers_of(self.model))

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
        """Whole parameters by name, fp32 copies on the CPU."""
        return cpu_copies(self.model.named_parameters())

    def _backward(self, scalar: Tensor) -> None:
        (scalar * self._loss_scale.value).backward()  # type: ignore[no-untyped-call]

    def _synchronise(self, is_last: bool) -> AbstractContextManager[Any]:
        if is_last or not isinstance(self._forward, DistributedDataParallel):
            return contextlib.nullcontext()
        return self._forward.no_sync()

    @torch.no_grad()
    def _clamp_logit_scale(self) -> None:
        logit_scale = getattr(self.model, "logit_scale", None)
        if isinstance(logit_scale, Tensor):
            logit_scale.clamp_(max=self._logit_scale_limit)


def _distributed(module: nn.Module, world: World) -> DistributedDataParallel:
    with warnings.catch_warnings():
        # Newer versions of torch prefer a name that older ones do not know.
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        return DistributedDataParallel(
            module,
            device_ids=[world.device] if world.device.type == "cuda" else None,
            broadcast_buffers=False,  # no buffer changes during training
            gradient_as_bucket_view=True,
        )
