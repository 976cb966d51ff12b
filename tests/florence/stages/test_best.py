from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.stages.best import Best

VALUES = st.lists(st.floats(allow_nan=True), max_size=20)


@given(VALUES, st.integers(0, 20))
def test_it_is_the_first_of_the_highest_also_across_a_resume(values: list[float], cut: int) -> None:
    best = Best()
    improved = []
    for step, value in enumerate(values, start=1):
        if step == cut:  # as a checkpoint keeps it: JSON, which has no infinities
            best = Best(**json.loads(json.dumps(asdict(best), allow_nan=False)))
        improved.append(best.note(value, step))
    finite = [value for value in values if math.isfinite(value)]
    assert best.value == (max(finite) if finite else None)
    if best.value is not None:
        assert best.step == values.index(best.value) + 1
        assert best.waited == len(values) - best.step
        assert improved[best.step - 1]
        assert not any(improved[best.step :])


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_no_improvement(broken: float) -> None:
    best = Best()
    assert not best.note(broken, 1)
    assert best.waited == 1
    assert best.note(0.5, 2)
    assert best == Best(value=0.5, step=2, waited=0)


def test_it_must_be_strictly_better_than_the_last() -> None:
    assert not Best().is_better_than({"top1": 0.0})
    best = Best(value=0.5, step=3)
    assert best.is_better_than({"top1": 0.4, "top5": 1.0})
    assert not best.is_better_than({"top1": 0.5, "top5": 0.0})
    assert best.is_better_than({"top1": math.nan})
