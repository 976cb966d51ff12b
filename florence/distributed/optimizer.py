"""AdamW that unscales, clips and refuses non-finite gradients, and the loss scale of fp16."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from florence.config import Optimizer, Precision


def adamw(groups: list[dict[str, Any]], settings: Optimizer) -> torch.optim.AdamW:
    """Fused AdamW over ``groups``."""
    return torch.optim.AdamW(groups, **_arguments(settings))


def _arguments(settings: Optimizer) -> dict[str, Any]:
    return {
        "lr": settings.lr,
        "betas": (settings.beta1, settings.beta2),
        "eps": settings.eps,
        "fused": True,
    }


class GuardedAdamW(torch.optim.AdamW):
    """AdamW for gradients that are reduced over ranks, but neither unscaled nor clipped.

    ``step`` divides the gradients by ``loss_scale``, clips their global norm, and does nothing when
    that norm is not finite. Afterwards ``grad_norm`` is the norm before clipping and ``skipped``
    says whether parameters and moments were left alone.
    """

    def __init__(self, groups: list[dict[str, Any]], settings: Optimizer) -> None:
        super().__init__(groups, **_arguments(settings))
        self.loss_scale = 1.0
        self.grad_norm = 0.0
        self.skipped = False
        self._clip_norm = settings.clip_norm

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """See the class; ``closure`` is not supported."""
        grads = [
            parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        self.grad_norm = global_norm(grads) / self.loss_scale
        self.skipped = not math.isfinite(self.grad_norm)
        if self.skipped:
            return
        factor = clip_factor(self.grad_norm, self._clip_norm) / self.loss_scale
        if factor != 1.0:
            torch._foreach_mul_(grads, factor)
        super().step(closure)


def global_norm(grads: Iterable[Tensor]) -> float:
    """Euclidean norm over all elements; not finite if any element is not."""
    return float(torch.nn.utils.get_total_norm(grads, error_if_nonfinite=False))


def clip_factor(norm: float, clip_norm: float) -> float:
    """What gradients of ``norm`` are multiplied by so that their norm is at most ``clip_norm``.

    0 does not clip. The 1e-6 is torch's and DeepSpeed's, so that both engines agree.
    """
    return min(1.0, clip_norm / (norm + 1e-6)) if clip_norm > 0 else 1.0


def initialise_moments(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Give AdamW its zero state now, which it else creates on its first step.

    So that a checkpoint before the first step, and a restore into a fresh engine, need no special
    case.
    """
    for parameter in parameters:
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }


@dataclass
class LossScale:
    """What the loss is multiplied by so that fp16 gradients do not vanish.

    It halves on a step that overflows and doubles after ``growth_interval`` steps that do not. For
    fp32 and bf16 it stays 1. Every rank sees the same overflows, hence holds the same scale.
    """

    value: float = 1.0
    good_steps: int = 0
    dynamic: bool = False
    growth_interval: int = 2_000

    @classmethod
    def of(cls, precision: Precision) -> LossScale:
        """The scale to start with: 2¹⁶ for fp16."""
        return cls(2.0**16, dynamic=True) if precision is Precision.FP16 else cls()

    def update(self, *, overflow: bool) -> None:
        """Account for one step."""
        if not self.dynamic:
            return
        if overflow:
            self.value = max(self.value / 2, 1.0)
            self.good_steps = 0
            return
        self.good_steps += 1
        if self.good_steps == self.growth_interval:
            self.value *= 2
            self.good_steps = 0

    def counters(self) -> dict[str, float | int]:
        """The state to continue from."""
        return {"loss_scale": self.value, "loss_scale_good_steps": self.good_steps}

    def restore(self, counters: Mapping[str, float | int]) -> None:
        """Continue from :meth:`counters`; those of another precision leave the start value."""
        if self.dynamic and float(counters["loss_scale"]) > 1.0:
            self.value = float(counters["loss_scale"])
            self.good_steps = int(counters["loss_scale_good_steps"])
