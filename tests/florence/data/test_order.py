from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from florence.data.order import BLOCKS_PER_WINDOW, Order

counts, windows, seeds = st.integers(1, 900), st.integers(1, 600), st.integers(0, 2**40)


@given(counts, windows, seeds, st.integers(0, 3))
def test_an_epoch_holds_every_sample_once(count: int, window: int, seed: int, epoch: int) -> None:
    order = Order(count, seed, window)
    drawn = order.samples(epoch * count, (epoch + 1) * count)
    assert np.array_equal(np.sort(drawn), np.arange(count))


@given(counts, windows, seeds, st.lists(st.integers(0, 4000), min_size=2, max_size=6))
def test_any_cut_gives_the_same_stream(count: int, window: int, seed: int, cuts: list[int]) -> None:
    cuts.sort()
    whole = Order(count, seed, window).samples(cuts[0], cuts[-1])
    pieces = [Order(count, seed, window).samples(a, b) for a, b in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces), whole)


def test_seeds_and_epochs_differ() -> None:
    streams = [
        Order(500, seed, 100).samples(e * 500, e * 500 + 500) for seed in (0, 1) for e in (0, 1)
    ]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert (a == b).mean() < 0.05


def uniform_table(pairs: list[tuple[np.ndarray, np.ndarray]], cells: int) -> float:
    """The p-value of (place, sample) pairs, both in [0, 1), being uniform on a grid."""
    table = sum(np.histogram2d(a, b, cells, [[0, 1], [0, 1]])[0] for a, b in pairs)
    expected = table.sum() / cells**2
    statistic = ((table - expected) ** 2 / expected).sum()
    return float(chi2.sf(statistic, (cells - 1) ** 2))


def test_shuffle_within_one_window_is_uniform() -> None:
    count, place = 400, np.arange(400) / 400
    orders = [Order(count, seed, 10_000).samples(0, count) / count for seed in range(50)]
    assert uniform_table([(place, order) for order in orders], 10) > 1e-4


def test_shuffle_over_windows_is_near_global() -> None:
    """Judged by one sample of each block, since its neighbours travel with it."""
    window = 4 * BLOCKS_PER_WINDOW
    count = 64 * window
    pairs = []
    for seed in range(6):
        order = Order(count, seed, window)
        drawn = order.samples(0, count)
        assert order.block == 4
        first = drawn % order.block == 0
        pairs.append((np.flatnonzero(first) / count, drawn[first] / count))
    assert uniform_table(pairs, 12) > 1e-4


def test_a_window_reads_few_blocks() -> None:
    window = 16 * BLOCKS_PER_WINDOW
    order = Order(50 * window + 5, 1, window)
    for number in range(50):
        drawn = order.samples(number * window, (number + 1) * window)
        assert len(np.unique(drawn // order.block)) <= BLOCKS_PER_WINDOW + 2


@given(counts, seeds, st.integers(0, 10**6))
def test_spares_are_a_function_of_position_and_attempt(
    count: int, seed: int, position: int
) -> None:
    order = Order(count, seed, 64)
    spares = [order.spare(position, attempt) for attempt in range(1, 30)]
    assert spares == [Order(count, seed, 7).spare(position, a) for a in range(1, 30)]
    assert all(0 <= spare < count for spare in spares)
    if count > 100:
        assert len(set(spares)) > 10


def test_nothing_to_order_is_refused() -> None:
    with pytest.raises(ValueError, match="0 and 5"):
        Order(0, 0, 5)
