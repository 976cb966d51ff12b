"""Seconds by phase, against a list of what happened when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.stages.phase_clock import PhaseClock

PHASES = ("start", "index", "restore", "train", "checkpoint", "evaluate", "export")


class Clock:
    def __init__(self) -> None:
        self.seconds = 50.0

    def __call__(self) -> float:
        return self.seconds


def test_each_phase_gets_its_seconds_and_waits_are_taken_from_training() -> None:
    clock = Clock()
    phases = PhaseClock(clock)
    for phase, seconds in (("start", 7), ("train", 20), ("checkpoint", 3), ("export", 10)):
        phases.enter(phase)
        clock.seconds += seconds
        if phase == "train":
            phases.waited(4.0)
    told = phases.read()
    assert (told.train, told.data_wait, told.checkpoint, told.evaluate) == (16, 4, 3, 10)
    assert phases.goodput == pytest.approx(26 / 40)


def test_only_what_is_committed_is_kept() -> None:
    clock = Clock()
    phases = PhaseClock(clock)
    phases.enter("train")
    for step in (1, 2, 3):
        clock.seconds += 10
        phases.saving(step)
    assert phases.read().kept == 0
    phases.committed(2)
    assert phases.read().kept == 20
    # A save that failed, and one of an attempt before.
    phases.committed(1)
    phases.committed(99)
    assert phases.read().kept == 20
    clock.seconds += 5
    assert phases.read().train == 35


@given(st.lists(st.tuples(st.sampled_from(PHASES), st.floats(0, 100), st.floats(0, 1))))
def test_what_is_counted_and_the_start_are_all_of_the_time(
    events: list[tuple[str, float, float]],
) -> None:
    clock = Clock()
    phases = PhaseClock(clock)
    start = waits = 0.0
    for phase, seconds, part in events:
        phases.enter(phase)
        clock.seconds += seconds
        if phase == "train":
            phases.waited(part * seconds)
            waits += part * seconds
        start += seconds if phase in ("start", "index", "restore") else 0
    told = phases.read()
    counted = told.train + told.data_wait + told.checkpoint + told.evaluate
    assert counted + start == pytest.approx(clock.seconds - 50, abs=1e-6)
    assert told.data_wait == pytest.approx(waits, abs=1e-6)


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    clock = Clock()
    phases = PhaseClock(clock)
    phases.enter("train")
    clock.seconds += 10
    assert phases.read().train == 10
    clock.seconds -= 1_000
    assert phases.read().train == 10
    clock.seconds += 5
    assert phases.read().train == 15
