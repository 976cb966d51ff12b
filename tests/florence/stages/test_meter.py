"""Rates, waiting and what is left, by a clock that the test holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.stages.meter import ThroughputMeter


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_rate_and_time_left_follow_the_clock() -> None:
    clock = Clock()
    meter = ThroughputMeter(clock)
    assert meter.steps_per_second is None
    assert meter.seconds_left(100) is None
    assert meter.wait_fraction is None
    assert meter.now() == 1_000.0
    for step in range(1, 11):
        clock.seconds += 0.5
        meter.step(step)
    assert meter.steps_per_second == pytest.approx(2.0)
    assert meter.seconds_left(100) == pytest.approx(45.0)
    assert meter.seconds_left(10) == 0.0


def test_only_the_last_fifty_steps_count_and_pauses_do_not() -> None:
    clock = Clock()
    meter = ThroughputMeter(clock)
    for step in range(1, 101):
        clock.seconds += 10.0 if step <= 40 else 1.0
        meter.step(step)
    assert meter.steps_per_second == pytest.approx(1.0)
    clock.seconds += 1000
    meter.pause()
    meter.step(101)
    assert meter.steps_per_second is None
    assert meter.wait_fraction is None
    clock.seconds += 1
    meter.step(102)
    assert meter.steps_per_second == pytest.approx(1.0)


def test_a_clock_that_stands_still_gives_no_rate() -> None:
    meter = ThroughputMeter(Clock())
    meter.step(1)
    meter.step(2)
    assert meter.steps_per_second is None
    assert meter.seconds_left(10) is None


def test_waiting_is_a_part_of_the_time_between_steps() -> None:
    clock = Clock()
    meter = ThroughputMeter(clock)
    meter.wait(7.0)  # for the first batch, before the first step that counts
    meter.step(1)
    for step in range(2, 12):
        meter.wait(0.25)
        clock.seconds += 1.0
        meter.step(step)
    assert meter.wait_fraction == pytest.approx(0.25)
    meter.pause()
    meter.wait(100.0)  # for a checkpoint, say
    meter.step(12)
    meter.wait(0.5)
    clock.seconds += 1.0
    meter.step(13)
    assert meter.wait_fraction == pytest.approx(0.5)


@given(
    st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), min_size=2, max_size=120),
    st.integers(0, 1_000),
)
def test_over_any_steps_it_is_that_of_the_last_fifty(
    steps: list[tuple[float, float]], start: int
) -> None:
    clock = Clock()
    meter = ThroughputMeter(clock)
    for number, (seconds, part) in enumerate(steps):
        meter.wait(seconds * part)
        clock.seconds += seconds
        meter.step(start + number)
    counted = steps[1:][-50:]
    total = sum(seconds for seconds, _ in counted)
    assert meter.steps_per_second == pytest.approx(len(counted) / total, rel=1e-6)
    waited = sum(seconds * part for seconds, part in counted)
    assert meter.wait_fraction == pytest.approx(waited / total, rel=1e-6, abs=1e-9)
