"""The implementations of window attention against each other and against a loop."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from florence.config import Attention
from florence.models.attention import WindowAttention, resolve_attention
from florence.models.windows import WindowGrid
from tests.florence.models.references import randomise

CHANNELS, HEADS, WINDOW = 24, 3, 4
GRIDS = [
    WindowGrid.fit(8, 8, WINDOW, shifted=False),
    WindowGrid.fit(8, 8, WINDOW, shifted=True),
    WindowGrid.fit(3, 8, WINDOW, shifted=True),
]


def attention(implementation: Attention) -> WindowAttention:
    module = WindowAttention(CHANNELS, HEADS, WINDOW, implementation)
    randomise(module)
    return module


def by_definition(module: WindowAttention, x: Tensor, grid: WindowGrid) -> Tensor:
    """Softmax over allowed tokens, one window and one head at a time, in image coordinates."""
    q, k, v = module.qkv(x).chunk(3, dim=-1)
    table = module.relative_position_bias_table.view(2 * WINDOW - 1, 2 * WINDOW - 1, HEADS)
    width = CHANNELS // HEADS
    rows = []
    slots = [
        (
            (top + y + grid.shift_height) % grid.padded_height,
            (left + z + grid.shift_width) % grid.padded_width,
        )
        for top in range(0, grid.padded_height, grid.window_height)
        for left in range(0, grid.padded_width, grid.window_width)
        for y in range(grid.window_height)
        for z in range(grid.window_width)
    ]
    for i, (row, column) in enumerate(slots):
        first = i // grid.tokens * grid.tokens
        seen = [
            j
            for j in range(first, first + grid.tokens)
            if abs(slots[j][0] - row) < grid.window_height
            and abs(slots[j][1] - column) < grid.window_width
        ]
        out = []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            bias = torch.stack(
                [
                    table[row - slots[j][0] + WINDOW - 1, column - slots[j][1] + WINDOW - 1, head]
                    for j in seen
                ]
            )
            scores = (q[:, i, None, part] * k[:, seen, part]).sum(-1) / width**0.5 + bias
            out.append((scores.softmax(-1)[..., None] * v[:, seen, part]).sum(1))
        rows.append(torch.cat(out, dim=-1))
    return module.proj(torch.stack(rows, dim=1))  # type: ignore[no-any-return]


def value_and_gradients(
    function: Callable[[Tensor], Tensor], module: WindowAttention, grid: WindowGrid
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, grid.windows * grid.tokens, CHANNELS, generator=generator)
    x.requires_grad_()
    out = function(x)
    direction = torch.randn(out.shape, generator=generator)
    return out, *torch.autograd.grad((out * direction).sum(), [x, *module.parameters()])


@functools.cache
def expected(grid: WindowGrid) -> tuple[Tensor, ...]:
    module = attention(Attention.AUTO)
    return value_and_gradients(lambda x: by_definition(module, x, grid), module, grid)


@pytest.mark.parametrize("implementation", list(Attention))
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grid", GRIDS, ids=["plain", "shifted", "clamped"])
def test_equals_the_definition_in_values_and_gradients(
    implementation: Attention, training: bool, grid: WindowGrid
) -> None:
    module = attention(implementation).train(training)
    actual = value_and_gradients(lambda x: module(x, grid), module, grid)
    for ours, theirs in zip(actual, expected(grid), strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * scale)


def test_more_windows_than_a_kernel_takes_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module, grid = attention(Attention.SDPA), GRIDS[0]
    monkeypatch.setattr("florence.models.attention.MAX_FUSED_BATCH", grid.windows)
    actual = value_and_gradients(lambda x: module(x, grid), module, grid)
    for ours, theirs in zip(actual, expected(grid), strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("implementation", [Attention.MATH, Attention.SDPA])
def test_nothing_leaks_across_the_edges_that_a_shift_wraps(implementation: Attention) -> None:
    """Test C3: change all tokens above the wrap; those below it, in the same windows, stay."""
    module = attention(implementation)
    grid = WindowGrid.fit(8, 8, WINDOW, shifted=True)
    x = torch.randn(1, 64, CHANNELS)
    changed = x.clone()
    # The windows of the last row hold map rows 6, 7 (slots 0-7) and, wrapped around, 0, 1 (8-15).
    last = torch.tensor(
        [2 * 16 + slot for slot in range(16)] + [3 * 16 + slot for slot in range(16)]
    )
    wrapped = torch.tensor([slot % 16 >= 8 for slot in range(32)])
    changed[:, last[wrapped]] += 3
    before, after = module(x, grid), module(changed, grid)
    assert torch.equal(before[:, last[~wrapped]], after[:, last[~wrapped]])
    assert (before[:, last[wrapped]] - after[:, last[wrapped]]).abs().min(dim=-1).values.max() > 0
    assert torch.equal(before[:, : 2 * 16], after[:, : 2 * 16])


def test_auto_is_a_rule() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    resolve = resolve_attention
    assert resolve(Attention.AUTO, cpu, torch.float32, True) is Attention.MATH
    assert resolve(Attention.AUTO, cpu, torch.float32, False) is Attention.SDPA
    assert resolve(Attention.AUTO, cpu, torch.bfloat16, False) is Attention.MATH
    assert resolve(Attention.AUTO, cuda, torch.bfloat16, True) is Attention.SDPA
    assert resolve(Attention.MATH, cuda, torch.bfloat16, True) is Attention.MATH
