"""Window geometry against loops over coordinates."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.models.windows import (
    MASKED_SCORE,
    WindowGrid,
    permute,
    region_mask,
    relative_index,
    reorder,
    window_order,
)

CPU = torch.device("cpu")
grids = st.builds(
    WindowGrid.fit,
    st.integers(1, 15),
    st.integers(1, 15),
    st.integers(1, 7),
    shifted=st.booleans(),
)


def coordinates(grid: WindowGrid) -> list[list[tuple[int, int]]]:
    """The padded map's (row, column) at every slot of every window, by definition of the shift."""
    rows, columns = grid.padded_height, grid.padded_width
    return [
        [
            ((top + y + grid.shift_height) % rows, (left + x + grid.shift_width) % columns)
            for y in range(grid.window_height)
            for x in range(grid.window_width)
        ]
        for top in range(0, rows, grid.window_height)
        for left in range(0, columns, grid.window_width)
    ]


@settings(max_examples=60, deadline=None)
@given(grids)
def test_window_order_lists_windows_of_the_shifted_map(grid: WindowGrid) -> None:
    expected = [
        row * grid.padded_width + column for window in coordinates(grid) for row, column in window
    ]
    order = window_order(grid, CPU)
    assert order.forward.tolist() == expected
    assert order.inverse[order.forward].tolist() == list(range(len(expected)))


@settings(max_examples=60, deadline=None)
@given(grids)
def test_mask_separates_tokens_that_only_the_shift_brought_together(grid: WindowGrid) -> None:
    """Two tokens of a window may see each other if no edge of the map lies between them."""
    mask = region_mask(grid, CPU, torch.float32)
    for number, window in enumerate(coordinates(grid)):
        for i, (row, column) in enumerate(window):
            for j, (other_row, other_column) in enumerate(window):
                together = (
                    abs(row - other_row) < grid.window_height
                    and abs(column - other_column) < grid.window_width
                )
                assert mask[number, i, j] == (0 if together else MASKED_SCORE)


@settings(max_examples=60, deadline=None)
@given(grids, st.integers(0, 3))
def test_relative_index_depends_on_the_offset_alone(grid: WindowGrid, margin: int) -> None:
    window = max(grid.window_height, grid.window_width) + margin
    index = relative_index(grid, window, CPU).view(grid.tokens, grid.tokens)
    for i in range(grid.tokens):
        for j in range(grid.tokens):
            (y, x), (v, u) = divmod(i, grid.window_width), divmod(j, grid.window_width)
            assert index[i, j] == (y - v + window - 1) * (2 * window - 1) + (x - u + window - 1)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (12, 4), (4, 8)])
def test_reorder_moves_from_one_grid_to_the_other(height: int, width: int) -> None:
    plain = WindowGrid.fit(height, width, 4, shifted=False)
    shifted = WindowGrid.fit(height, width, 4, shifted=True)
    image = torch.randn(2, height * width, 3)
    at_once = permute(permute(image, window_order(plain, CPU)), reorder(plain, shifted, CPU))
    assert torch.equal(at_once, permute(image, window_order(shifted, CPU)))


def test_windows_are_clamped_to_the_map_and_not_shifted_there() -> None:
    grid = WindowGrid.fit(5, 14, 7, shifted=True)
    assert (grid.window_height, grid.window_width) == (5, 7)
    assert (grid.shift_height, grid.shift_width) == (0, 3)
    whole = WindowGrid.fit(7, 7, 7, shifted=True)
    assert not whole.is_shifted
    assert whole == WindowGrid.fit(7, 7, 7, shifted=False)


def test_permute_differentiates_twice() -> None:
    order = window_order(WindowGrid.fit(4, 4, 2, shifted=True), CPU)
    x = torch.randn(2, 16, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: permute(t, order), x)
    assert torch.autograd.gradgradcheck(lambda t: permute(t, order) ** 2, x)
