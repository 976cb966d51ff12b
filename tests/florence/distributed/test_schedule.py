"""Warm-up and cosine, at their ends and in between."""

from __future__ import annotations

import itertools
import math

import pytest

from florence.config import Optimizer
from florence.distributed.schedule import learning_rate


def test_warms_up_to_the_peak_then_falls_to_the_floor() -> None:
    optimizer = Optimizer(lr=2.0, min_lr_fraction=0.1, warmup_steps=4)
    rates = [learning_rate(step, 24, optimizer) for step in range(24)]
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(rates[4:]))
    middle = 4 + 9.5
    expected = 2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (14 - 4) / 19)))
    assert rates[math.ceil(middle)] == pytest.approx(expected)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(0, 10, Optimizer(lr=1.0, warmup_steps=0)) == 1.0


def test_a_default_warm_up_longer_than_the_stage_is_cut_to_a_tenth() -> None:
    optimizer = Optimizer(lr=1.0, warmup_steps=2_000)
    assert learning_rate(9, 100, optimizer) == pytest.approx(1.0)
    assert learning_rate(0, 100, optimizer) == pytest.approx(0.1)
    assert learning_rate(99, 100, optimizer) == pytest.approx(0.01)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_tiny_stages_have_a_rate(steps: int) -> None:
    for step in range(steps):
        assert 0 < learning_rate(step, steps, Optimizer(lr=1.0)) <= 1.0
