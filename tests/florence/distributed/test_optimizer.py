"""Unscaling, clipping, skipping and the fp16 loss scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from florence.config import Optimizer, Precision
from florence.distributed.optimizer import (
    GuardedAdamW,
    LossScale,
    adamw,
    clip_factor,
    initialise_moments,
)

SETTINGS = Optimizer(lr=0.1, clip_norm=1.0, weight_decay=0.2)


def parameter_with(grad: float) -> nn.Parameter:
    parameter = nn.Parameter(torch.linspace(-1, 1, 8))
    parameter.grad = torch.full((8,), grad)
    return parameter


def test_a_scaled_large_gradient_steps_like_the_unscaled_clipped_one() -> None:
    guarded, plain = parameter_with(3.0 * 1024), parameter_with(0.0)
    optimizer = GuardedAdamW([{"params": [guarded]}], SETTINGS)
    optimizer.loss_scale = 1024.0
    optimizer.step()
    norm = 3.0 * 8**0.5
    assert optimizer.grad_norm == pytest.approx(norm)
    plain.grad = torch.full((8,), 3.0 / (norm + 1e-6))
    adamw([{"params": [plain]}], SETTINGS).step()
    torch.testing.assert_close(guarded, plain)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_gradient_leaves_everything_alone(bad: float) -> None:
    parameter = parameter_with(1.0)
    optimizer = GuardedAdamW([{"params": [parameter]}], SETTINGS)
    initialise_moments(optimizer, [parameter])
    optimizer.step()
    before = parameter.detach().clone()
    state = {name: value.clone() for name, value in optimizer.state[parameter].items()}
    assert parameter.grad is not None
    parameter.grad[3] = bad
    optimizer.step()
    assert optimizer.skipped
    assert torch.equal(parameter, before)
    for name, value in state.items():
        assert torch.equal(optimizer.state[parameter][name], value)
    parameter.grad = torch.ones(8)
    optimizer.step()
    assert not optimizer.skipped
    assert not torch.equal(parameter, before)


def test_zero_does_not_clip() -> None:
    assert clip_factor(1e9, 0.0) == 1.0
    assert clip_factor(0.5, 1.0) == 1.0
    assert clip_factor(4.0, 1.0) == pytest.approx(0.25)


def test_moments_set_in_advance_step_like_lazy_ones() -> None:
    early, lazy = parameter_with(0.3), parameter_with(0.3)
    with_moments = adamw([{"params": [early]}], SETTINGS)
    initialise_moments(with_moments, [early])
    with_moments.step()
    adamw([{"params": [lazy]}], SETTINGS).step()
    assert torch.equal(early, lazy)


def test_loss_scale_halves_on_overflow_and_doubles_after_good_steps() -> None:
    scale = LossScale.of(Precision.FP16)
    assert scale.value == 65_536
    scale.update(overflow=True)
    assert scale.value == 32_768
    for _ in range(1_999):
        scale.update(overflow=False)
    assert scale.value == 32_768
    other = LossScale.of(Precision.FP16)
    other.restore(scale.counters())
    other.update(overflow=False)
    assert other.value == 65_536


def test_other_precisions_are_not_scaled() -> None:
    scale = LossScale.of(Precision.BF16)
    scale.update(overflow=True)
    scale.restore(LossScale.of(Precision.FP16).counters())
    assert scale.value == 1.0
