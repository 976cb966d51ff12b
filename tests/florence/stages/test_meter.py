from __future__ import annotations

import pytest

from florence.stages.meter import ThroughputMeter


def test_rate_and_time_left_follow_the_clock() -> None:
    now = 0.0
    meter = ThroughputMeter(lambda: now)
    assert meter.steps_per_second is None
    assert meter.seconds_left(100) is None
    for step in range(1, 11):
        now += 0.5
        meter.step(step)
    assert meter.steps_per_second == pytest.approx(2.0)
    assert meter.seconds_left(100) == pytest.approx(45.0)


def test_only_the_last_fifty_steps_count_and_pauses_do_not() -> None:
    now = 0.0
    meter = ThroughputMeter(lambda: now)
    for step in range(1, 101):
        now += 10.0 if step <= 40 else 1.0
        meter.step(step)
    assert meter.steps_per_second == pytest.approx(1.0)
    now += 1000
    meter.pause()
    meter.step(101)
    assert meter.steps_per_second is None
    now += 1
    meter.step(102)
    assert meter.steps_per_second == pytest.approx(1.0)


def test_the_part_of_the_time_that_waits_for_data() -> None:
    now = 0.0
    meter = ThroughputMeter(lambda: now)
    assert meter.wait_fraction is None
    for step in range(1, 11):
        now += 2.0
        meter.wait(0.5)
        meter.step(step)
    assert meter.wait_fraction == pytest.approx(0.25)
