from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from florence.checkpoint import Fragment, share_of
from florence.checkpoint.fragment import coverage_fault

SHAPES = st.lists(st.lists(st.integers(0, 5), max_size=3).map(tuple), min_size=1, max_size=6)


@given(SHAPES, st.integers(1, 7))
def test_shares_cover_every_element_once_and_evenly(
    shapes: list[tuple[int, ...]], size: int
) -> None:
    tensors = {f"t{i}": torch.randn(shape) for i, shape in enumerate(shapes)}
    shares = [share_of(tensors, rank, size) for rank in range(size)]
    written = {name: torch.full((tensor.numel(),), math.nan) for name, tensor in tensors.items()}
    seen = set()
    for fragment in (f for share in shares for f in share):
        target = written[fragment.name][fragment.offset : fragment.end]
        assert torch.isnan(target).all(), "written twice"
        target.copy_(fragment.values)
        assert fragment.shape == tuple(tensors[fragment.name].shape)
        seen.add(fragment.name)
    assert seen == set(tensors), "a tensor without elements has to be written too"
    assert all(torch.equal(written[n].view(t.shape), t) for n, t in tensors.items())
    counts = [sum(f.values.numel() for f in share) for share in shares]
    assert max(counts) - min(counts) <= 1


@given(st.integers(0, 6), st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4)), max_size=5))
def test_coverage_agrees_with_counting(elements: int, runs: list[tuple[int, int]]) -> None:
    counts = [0] * 12
    for offset, length in runs:
        for position in range(offset, offset + length):
            counts[position] += 1
    whole = counts == [1] * elements + [0] * (12 - elements)
    assert (coverage_fault((elements,), runs) is None) == whole


@given(st.integers(0, 5), st.integers(0, 5))
def test_empty_runs_change_nothing(elements: int, offset: int) -> None:
    runs = [(0, elements), (min(offset, elements), 0)]
    assert coverage_fault((elements,), runs) is None


@pytest.mark.parametrize(("offset", "length"), [(-1, 2), (5, 2), (0, 7)])
def test_a_run_outside_its_tensor_is_refused(offset: int, length: int) -> None:
    with pytest.raises(ValueError, match="lie outside shape"):
        Fragment("t", (2, 3), offset, torch.zeros(length))


def test_values_must_be_flat() -> None:
    with pytest.raises(ValueError, match="1-D"):
        Fragment("t", (2, 3), 0, torch.zeros(2, 3))
