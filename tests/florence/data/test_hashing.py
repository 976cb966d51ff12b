from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from florence.data.hashing import mix, permutation, uniforms


@given(st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_permutation_holds_every_number_once(size: int, key: int) -> None:
    assert sorted(permutation(size, key).tolist()) == list(range(size))


def test_streams_are_what_they_were_when_runs_began() -> None:
    """Stored values: a change here changes the data order of every run in progress."""
    assert mix(0, 1, 2) == 0xF4F373571B7FEB84
    assert permutation(10, 7).tolist() == [1, 8, 5, 7, 0, 9, 4, 6, 3, 2]
    first = list(itertools.islice(uniforms(5), 2))
    assert first == [0.386768045983934, 0.7523070158382239]


def test_mix_depends_on_order_and_every_value() -> None:
    values = {mix(*v) for v in itertools.product(range(8), repeat=3)}
    assert len(values) == 512
    assert mix(-1) == mix(2**64 - 1)


def test_uniforms_are_uniform_and_keys_independent() -> None:
    drawn = np.array([next(uniforms(mix(9, k))) for k in range(4000)])
    stream = np.array(list(itertools.islice(uniforms(1), 4000)))
    for values in (drawn, stream):
        assert kstest(values, "uniform").pvalue > 1e-4
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.06
