"""The geometry of window attention: which token sits in which window, and who may see whom.

Shapes: B images, H x W tokens of C channels, windows of N tokens, W_n windows per image.
*Image order* lists tokens row by row; *window order* lists them window by window. A layer norm, an
MLP and a residual sum do not care about the order, so blocks stay in window order and one gather
moves from one block's windows to the next block's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from florence.models.tensor_cache import TensorCache

# Added to the scores of tokens that only the cyclic shift made neighbours. Swin's released code
# adds -100, whose exponential is a denormal number: not quite zero, and slow on a CPU. This one's
# is zero, and it fits into float16.
MASKED_SCORE = -1e4

GEOMETRY = TensorCache(limit=256 << 20)
"""Orders and masks of the map sizes met last. With windows of 12, the masks of one image of 800 x
1333 pixels take 52 MB: a bound by entries would let multi-scale training fill a gigabyte."""

T = TypeVar("T")


@dataclass(frozen=True)
class WindowGrid:
    """How a map of ``height x width`` tokens is cut into windows, shifted or not.

    A window is clamped to the map, per axis; an axis with a single window is never shifted.
    A map that windows do not tile is padded at the right and the bottom.
    """

    height: int
    width: int
    window_height: int
    window_width: int
    shift_height: int
    shift_width: int

    @classmethod
    def fit(cls, height: int, width: int, window: int, *, shifted: bool) -> WindowGrid:
        """The grid of windows of side ``window`` on a map of ``height x width`` tokens."""
        sides = [min(window, height), min(window, width)]
        shifts = [window // 2 if shifted and side > window else 0 for side in (height, width)]
        return cls(height, width, *sides, *shifts)

    @property
    def padded_height(self) -> int:
        return -(-self.height // self.window_height) * self.window_height

    @property
    def padded_width(self) -> int:
        return -(-self.width // self.window_width) * self.window_width

    @property
    def is_padded(self) -> bool:
        return (self.padded_height, self.padded_width) != (self.height, self.width)

    @property
    def is_shifted(self) -> bool:
        return self.shift_height > 0 or self.shift_width > 0

    @property
    def tokens(self) -> int:
        """Tokens of one window."""
        return self.window_height * self.window_width

    @property
    def windows(self) -> int:
        """Windows of one image."""
        return self.padded_height * self.padded_width // self.tokens


@dataclass(frozen=True)
class Permutation:
    """A reordering of tokens and its inverse, both int64 of shape (tokens,)."""

    forward: Tensor
    inverse: Tensor

    def inverted(self) -> Permutation:
        """The permutation that undoes this one."""
        return Permutation(self.inverse, self.forward)


def _partition(grid: WindowGrid, values: Tensor) -> Tensor:
    """Shift a (padded_height, padded_width) map and cut it into (windows, tokens)."""
    values = values.roll((-grid.shift_height, -grid.shift_width), (0, 1))
    rows, columns = (
        grid.padded_height // grid.window_height,
        grid.padded_width // grid.window_width,
    )
    tiles = values.view(rows, grid.window_height, columns, grid.window_width)
    return tiles.transpose(1, 2).reshape(grid.windows, grid.tokens)


def _window_order(grid: WindowGrid, device: torch.device) -> Permutation:
    size = grid.padded_height * grid.padded_width
    numbers = torch.arange(size, device=device)
    order = _partition(grid, numbers.view(grid.padded_height, grid.padded_width)).flatten()
    return Permutation(order, torch.empty_like(order).scatter_(0, order, numbers))


def _reorder(source: WindowGrid, target: WindowGrid, device: torch.device) -> Permutation:
    a, b = window_order(source, device), window_order(target, device)
    return Permutation(a.inverse[b.forward], b.inverse[a.forward])


def _region_mask(grid: WindowGrid, device: torch.device, dtype: torch.dtype) -> Tensor:
    def regions(size: int, window: int, shift: int) -> Tensor:
        position = torch.arange(size, device=device)
        return (position >= size - window).long() + (position >= size - shift).long()

    # After the roll, rows of the last window come from two ends of the image: label the ends.
    rows = regions(grid.padded_height, grid.window_height, grid.shift_height)
    columns = regions(grid.padded_width, grid.window_width, grid.shift_width)
    labels = (3 * rows[:, None] + columns[None, :]).roll(
        (grid.shift_height, grid.shift_width), (0, 1)
    )
    label = _partition(grid, labels)
    apart = label[:, :, None] != label[:, None, :]
    return torch.zeros(apart.shape, device=device, dtype=dtype).masked_fill_(apart, MASKED_SCORE)


def _relative_index(grid: WindowGrid, window: int, device: torch.device) -> Tensor:
    rows = torch.arange(grid.window_height, device=device)
    columns = torch.arange(grid.window_width, device=device)
    dy = (rows[:, None] - rows[None, :] + window - 1)[:, None, :, None]
    dx = (columns[:, None] - columns[None, :] + window - 1)[None, :, None, :]
    return (dy * (2 * window - 1) + dx).reshape(-1)


def constant(build: Callable[..., T], *arguments: Hashable) -> T:
    """Call ``build``, once per arguments for as long as the cache has room.

    Not so while compiling: a compiler cannot see through a cache, and folds index arithmetic into
    the kernel that uses it.
    """
    if torch.compiler.is_compiling():
        return build(*arguments)

    def made() -> T:
        # A tensor made in inference mode could never be saved for a backward pass.
        with torch.inference_mode(False):
            return build(*arguments)

    return GEOMETRY.get((build, *arguments), made)


def window_order(grid: WindowGrid, device: torch.device) -> Permutation:
    """From the image order of the padded map to the grid's window order."""
    return constant(_window_order, grid, device)


def reorder(source: WindowGrid, target: WindowGrid, device: torch.device) -> Permutation:
    """From the window order of ``source`` to that of ``target``, two grids of one map."""
    return constant(_reorder, source, target, device)


def region_mask(grid: WindowGrid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What to add to the scores of a shifted grid: (windows, tokens, tokens), 0 or -1e4."""
    return constant(_region_mask, grid, device, dtype)


def relative_index(grid: WindowGrid, window: int, device: torch.device) -> Tensor:
    """Row of the bias table for every pair of tokens: int64 of shape (tokens * tokens,).

    The table is that of windows of side ``window``; a clamped window uses its middle rows.
    """
    return constant(_relative_index, grid, window, device)


class _Permute(torch.autograd.Function):
    """A gather whose backward is a gather too, where autograd's own would add with atomics."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(forward, inverse)
        return x.index_select(1, forward)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        forward, inverse = ctx.saved_tensors
        return _Permute.apply(grads[0], inverse, forward), None, None


def permute(x: Tensor, permutation: Permutation) -> Tensor:
    """Reorder the tokens of ``x`` (B, tokens, C)."""
    result: Tensor = _Permute.apply(x, permutation.forward, permutation.inverse)
    return result
