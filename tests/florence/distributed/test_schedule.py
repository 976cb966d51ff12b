"""Warm-up and every schedule after it, at their ends and in between."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config import Optimizer, Schedule
from florence.distributed.schedule import Plateau, learning_rate


def rates(steps: int, optimizer: Optimizer, plateau: Plateau | None = None) -> list[float]:
    return [learning_rate(step, steps, optimizer, plateau) for step in range(steps)]


def test_warms_up_to_the_peak_then_falls_to_the_floor() -> None:
    cosine = rates(24, Optimizer(lr=2.0, min_lr_fraction=0.1, warmup_steps=4))
    assert cosine[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert cosine[4] == pytest.approx(2.0)
    assert cosine[-1] == pytest.approx(0.2)
    assert all(a > b for a, b in itertools.pairwise(cosine[4:]))
    middle = 4 + 9.5
    expected = 2.0 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (14 - 4) / 19)))
    assert cosine[math.ceil(middle)] == pytest.approx(expected)


def test_linear_falls_by_the_same_amount_every_step() -> None:
    settings = Optimizer(lr=2.0, schedule=Schedule.LINEAR, min_lr_fraction=0.1, warmup_steps=4)
    linear = rates(24, settings)
    assert linear[4] == pytest.approx(2.0)
    assert linear[-1] == pytest.approx(0.2)
    differences = [a - b for a, b in itertools.pairwise(linear[4:])]
    assert differences == pytest.approx([1.8 / 19] * 19)


def test_steps_fall_where_they_are_told_to() -> None:
    settings = Optimizer(
        lr=1.0,
        schedule=Schedule.STEP,
        decay_at=(0.5, 0.75),
        decay_factor=0.2,
        min_lr_fraction=0.0,
        warmup_steps=2,
    )
    assert rates(8, settings) == pytest.approx([0.5, 1, 1, 1, 0.2, 0.2, 0.04, 0.04])


def test_the_usual_schedule_of_detection_falls_at_two_thirds_and_eight_ninths() -> None:
    """1x: 90,000 iterations, a tenth at 60,000 and again at 80,000."""
    settings = Optimizer(lr=1.0, schedule=Schedule.STEP, warmup_steps=0)
    at = {step: learning_rate(step, 90_000, settings) for step in (0, 59_999, 60_000, 79_999)}
    assert list(at.values()) == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert learning_rate(80_000, 90_000, settings) == pytest.approx(0.01)
    assert learning_rate(89_999, 90_000, settings) == pytest.approx(0.01)


def test_constant_stays_at_the_peak() -> None:
    settings = Optimizer(lr=0.3, schedule=Schedule.CONSTANT, warmup_steps=3)
    assert rates(10, settings) == pytest.approx([0.1, 0.2] + [0.3] * 8)


def test_a_plateau_falls_when_evaluations_stop_improving() -> None:
    settings = Optimizer(
        lr=1.0, schedule=Schedule.PLATEAU, decay_factor=0.5, min_lr_fraction=0.2, warmup_steps=0
    )
    plateau = Plateau()
    improved = (True, True, False, False, True, False, False, False, False)
    falls = [plateau.note(better, 2) for better in improved]
    assert falls == [False, False, False, True, False, False, True, False, True]
    assert plateau.fallen == 3
    by_fallen = [learning_rate(5, 10, settings, Plateau(fallen=fallen)) for fallen in range(5)]
    assert by_fallen == pytest.approx([1.0, 0.5, 0.25, 0.2, 0.2]), "never below the floor"
    assert learning_rate(5, 10, settings) == 1.0, "without evaluations there is no plateau"


@given(st.lists(st.booleans(), max_size=20), st.integers(1, 4), st.integers(0, 20))
def test_a_resumed_plateau_goes_on_as_if_nothing_had_happened(
    values: list[bool], patience: int, cut: int
) -> None:
    whole = Plateau()
    falls = [whole.note(value, patience) for value in values]
    first = Plateau()
    resumed = [first.note(value, patience) for value in values[:cut]]
    second = Plateau(**json.loads(json.dumps(asdict(first))))
    resumed += [second.note(value, patience) for value in values[cut:]]
    assert resumed == falls
    assert second == whole


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert learning_rate(0, 10, Optimizer(lr=1.0, warmup_steps=0)) == 1.0


def test_a_default_warm_up_longer_than_the_stage_is_cut_to_a_tenth() -> None:
    optimizer = Optimizer(lr=1.0, warmup_steps=2_000)
    assert learning_rate(9, 100, optimizer) == pytest.approx(1.0)
    assert learning_rate(0, 100, optimizer) == pytest.approx(0.1)
    assert learning_rate(99, 100, optimizer) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_tiny_stages_have_a_rate(steps: int, schedule: Schedule) -> None:
    for rate in rates(steps, Optimizer(lr=1.0, schedule=schedule)):
        assert 0 < rate <= 1.0


@given(
    schedule=st.sampled_from(list(Schedule)),
    steps=st.integers(1, 120),
    warmup=st.integers(0, 150),
    floor=st.floats(0, 1),
    factor=st.floats(0.01, 0.99),
    fallen=st.integers(0, 5),
)
def test_rates_rise_then_never_rise_again_and_stay_between_floor_and_peak(
    schedule: Schedule, steps: int, warmup: int, floor: float, factor: float, fallen: int
) -> None:
    optimizer = Optimizer(
        lr=0.5,
        schedule=schedule,
        warmup_steps=warmup,
        min_lr_fraction=floor,
        decay_factor=factor,
    )
    all_rates = rates(steps, optimizer, Plateau(fallen=fallen))
    start = warmup if warmup < steps else steps // 10
    warm, rest = all_rates[:start], all_rates[start:]
    assert all(a < b for a, b in itertools.pairwise(warm))
    assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(rest))
    assert max(all_rates) <= 0.5 * (1 + 1e-12)
    assert min(rest) >= 0.5 * floor * (1 - 1e-12)
    if schedule in (Schedule.COSINE, Schedule.LINEAR) and len(rest) > 1:
        assert rest[0] == pytest.approx(0.5)
        assert rest[-1] == pytest.approx(0.5 * floor, abs=1e-12)
