"""A cache that is bounded by bytes."""

from __future__ import annotations

import random
from collections import OrderedDict

import torch
from hypothesis import given
from hypothesis import strategies as st

from florence.models.tensor_cache import TensorCache, size_of
from florence.models.windows import (
    GEOMETRY,
    Permutation,
    WindowGrid,
    region_mask,
    reorder,
    window_order,
)

CPU = torch.device("cpu")


def test_sizes_are_those_of_the_tensors() -> None:
    assert size_of(torch.zeros(3, dtype=torch.int64)) == 24
    assert size_of(Permutation(torch.zeros(2), torch.zeros(5))) == 28


@given(st.integers(0, 60), st.lists(st.integers(0, 9), max_size=60))
def test_keeps_what_was_used_last_and_fits(limit: int, requests: list[int]) -> None:
    """Against a list of what a cache of least recent use holds, counted anew at each step."""
    cache = TensorCache(limit)
    expected: OrderedDict[int, int] = OrderedDict()
    for key in requests:
        built = []

        def build(key: int = key, built: list[int] = built) -> torch.Tensor:
            built.append(key)
            return torch.full((4 * key,), key, dtype=torch.uint8)

        value = cache.get(key, build)
        assert value.tolist() == [key] * (4 * key)
        assert bool(built) == (key not in expected)
        if key in expected:
            expected.move_to_end(key)
        elif 4 * key <= limit:
            expected[key] = 4 * key
            while sum(expected.values()) > limit:
                expected.popitem(last=False)
        assert cache.held == sum(expected.values()) <= limit
        assert len(cache) == len(expected)
    cache.clear()
    assert (cache.held, len(cache)) == (0, 0)


def test_geometry_of_many_image_sizes_stays_within_its_bound() -> None:
    """Forty images of detection's sizes at windows of 12: more than a gigabyte was kept."""
    rng = random.Random(0)
    made = 0
    GEOMETRY.clear()
    for _ in range(40):
        short = rng.randrange(480, 801, 32)
        height, width = short, min(1333, int(short * rng.uniform(1, 5 / 3)))
        for stage in range(4):
            rows, columns = (-(-side // 32) * 8 >> stage for side in (height, width))
            plain = WindowGrid.fit(rows, columns, 12, shifted=False)
            shifted = WindowGrid.fit(rows, columns, 12, shifted=True)
            window_order(plain, CPU)
            reorder(plain, shifted, CPU)
            mask = region_mask(shifted, CPU, torch.float32)
            made += mask.nbytes
            assert GEOMETRY.held <= GEOMETRY.limit == 256 << 20
            assert region_mask(shifted, CPU, torch.float32) is mask
    assert made > 2 * GEOMETRY.limit, "the bound was never reached"
    GEOMETRY.clear()
