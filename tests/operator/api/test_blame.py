"""What strikes weigh, and which ends are strikes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_operator.api.blame import BAD, Strike, strike_of, weight
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt

DAY = 86_400.0
ENDED = "2026-11-23T10:00:00Z"


def test_two_strikes_of_one_moment_are_too_many_for_a_half_life() -> None:
    assert weight([0.0], 0.0, DAY) == BAD
    assert weight([0.0, 0.0], 0.99 * DAY, DAY) > BAD
    assert weight([0.0, 0.0], 1.01 * DAY, DAY) < BAD


@given(st.lists(st.floats(0, 1e7), max_size=20), st.floats(0, 1e7), st.floats(1, 1e6))
def test_strikes_only_fade(moments: list[float], later: float, half_life: float) -> None:
    now = max(moments, default=0.0)
    first, then = weight(moments, now, half_life), weight(moments, now + later, half_life)
    assert 0 <= then <= first <= len(moments)
    assert weight(moments, now + half_life, half_life) == pytest.approx(first / 2)


def test_only_ends_that_name_a_node_and_a_reason_are_strikes() -> None:
    assert strike_of(Attempt(number=1, node="n", cause=Cause.NODE_LOST)) is None
    told = Attempt(number=1, node="n", cause=Cause.EVICTED, completion_time=ENDED)
    assert strike_of(told) is None
    assert strike_of(told.model_copy(update={"strike": "Device"})) is Strike.DEVICE
    older = told.model_copy(update={"cause": Cause.NODE_LOST})
    assert strike_of(older) is Strike.NODE_LOST
    assert strike_of(older.model_copy(update={"node": None})) is None
    newer = strike_of(told.model_copy(update={"strike": "OfTheNextVersion"}))
    assert newer is not None
    assert not newer.known
