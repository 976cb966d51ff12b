"""The geometry of window attention over time: what :mod:`florence.models.windows` is for images.

Shapes: T x H x W tokens, windows of N = M_t * M_h * M_w tokens. Time is the slowest of the three in
every order, as in Video Swin (arXiv 2106.13230).

The mask of a shifted grid is the same for almost all windows: only the last along an axis holds
tokens that the shift made neighbours. Windows are therefore grouped into blocks of equal masks,
which are slices of the windows' own grid; a mask of each window would take hundreds of megabytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from florence.models.windows import MASKED_SCORE, Permutation, WindowGrid, constant


@dataclass(frozen=True)
class VideoGrid(WindowGrid):
    """How ``frames x height x width`` tokens are cut into windows, shifted or not.

    A window is clamped to the map, per axis; an axis with a single window is never shifted. A map
    that windows do not tile is padded at its ends. Tokens padded in space are zeros that take part,
    as in Swin; tokens padded in time do not, so that a clip of any length whose frames are all
    alike has the features of the frame.
    """

    frames: int
    window_frames: int
    shift_frames: int

    @classmethod
    def over(
        cls,
        frames: int,
        height: int,
        width: int,
        *,
        window_frames: int,
        window: int,
        shifted: bool,
    ) -> VideoGrid:
        """The grid of windows of ``window_frames x window x window`` on a map of tokens."""
        spatial = WindowGrid.fit(height, width, window, shifted=shifted)
        return cls(
            height,
            width,
            spatial.window_height,
            spatial.window_width,
            spatial.shift_height,
            spatial.shift_width,
            frames,
            min(window_frames, frames),
            window_frames // 2 if shifted and frames > window_frames else 0,
        )

    @property
    def padded_frames(self) -> int:
        return -(-self.frames // self.window_frames) * self.window_frames

    @property
    def is_padded(self) -> bool:
        padded = self.padded_frames, self.padded_height, self.padded_width
        return padded != (self.frames, self.height, self.width)

    @property
    def is_shifted(self) -> bool:
        return max(self.shift_frames, self.shift_height, self.shift_width) > 0

    @property
    def is_masked(self) -> bool:
        """Whether there are tokens in a window that must not see each other."""
        return self.is_shifted or self.padded_frames != self.frames

    @property
    def tokens(self) -> int:
        """Tokens of one window."""
        return self.window_frames * self.window_height * self.window_width

    @property
    def counts(self) -> tuple[int, int, int]:
        """Windows along each axis."""
        return (
            self.padded_frames // self.window_frames,
            self.padded_height // self.window_height,
            self.padded_width // self.window_width,
        )

    @property
    def windows(self) -> int:
        """Windows of one clip."""
        frames, rows, columns = self.counts
        return frames * rows * columns


@dataclass(frozen=True)
class AxisGroup:
    """Neighbouring windows along one axis whose tokens are cut alike.

    ``regions`` has a number for each position of such a window; only equal ones see each other.
    ``absent`` says which positions are padding that nobody sees.
    """

    start: int
    stop: int
    regions: tuple[int, ...]
    absent: tuple[bool, ...]


@dataclass(frozen=True)
class WindowBlock:
    """Windows with one mask: slices of the windows' grid, and what each axis contributes."""

    axes: tuple[AxisGroup, AxisGroup, AxisGroup]

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Into (…, windows in time, in rows, in columns, …)."""
        frames, rows, columns = (slice(axis.start, axis.stop) for axis in self.axes)
        return frames, rows, columns

    @property
    def is_masked(self) -> bool:
        """Whether any of its tokens must not see another."""
        return any(len(set(axis.regions)) > 1 or any(axis.absent) for axis in self.axes)


def window_blocks(grid: VideoGrid) -> list[list[list[WindowBlock]]]:
    """The blocks of a grid by their place along each axis; together they are all windows."""
    frames = _axis_groups(grid.frames, grid.padded_frames, grid.window_frames, grid.shift_frames)
    height, width = grid.padded_height, grid.padded_width
    rows = _axis_groups(height, height, grid.window_height, grid.shift_height)
    columns = _axis_groups(width, width, grid.window_width, grid.shift_width)
    return [[[WindowBlock((a, b, c)) for c in columns] for b in rows] for a in frames]


def all_blocks(grid: VideoGrid) -> list[WindowBlock]:
    """The same in a row, time slowest."""
    return [block for plane in window_blocks(grid) for row in plane for block in row]


def _axis_groups(size: int, padded: int, window: int, shift: int) -> list[AxisGroup]:
    """Groups of windows along an axis; positions from ``size`` on are absent."""
    kinds = []
    for first in range(0, padded, window):
        # After the roll, the last window's tokens come from two ends of the map.
        places = range(first, first + window)
        is_last = first + window == padded and shift > 0
        regions = tuple(int(is_last and place >= padded - shift) for place in places)
        absent = tuple((place + shift) % padded >= size for place in places)
        kinds.append((regions, absent))
    # Plain loops: a compiler traces this.
    starts = [n for n in range(len(kinds)) if n == 0 or kinds[n] != kinds[n - 1]]
    ends = [*starts[1:], len(kinds)]
    return [AxisGroup(start, end, *kinds[start]) for start, end in zip(starts, ends, strict=True)]


def video_order(grid: VideoGrid, device: torch.device) -> Permutation:
    """From the clip's order of padded tokens (frame by frame, row by row) to the window order."""
    return constant(_video_order, grid, device)


def video_reorder(source: VideoGrid, target: VideoGrid, device: torch.device) -> Permutation:
    """From the window order of ``source`` to that of ``target``, two grids of one map."""
    return constant(_video_reorder, source, target, device)


def block_masks(grid: VideoGrid, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What to add to the scores of each of :func:`all_blocks`: (blocks, N, N), 0 or -1e4."""
    return constant(_block_masks, grid, device, dtype)


def video_relative_index(
    grid: VideoGrid, window_frames: int, window: int, device: torch.device
) -> Tensor:
    """Row of the bias table for every pair of tokens: int64 of shape (N * N,).

    The table is that of windows of ``window_frames x window x window``: its rows are relative
    positions, time slowest. A clamped window uses its middle rows.
    """
    return constant(_video_relative_index, grid, window_frames, window, device)


def _video_order(grid: VideoGrid, device: torch.device) -> Permutation:
    size = grid.padded_frames * grid.padded_height * grid.padded_width
    numbers = torch.arange(size, device=device)
    values = numbers.view(grid.padded_frames, grid.padded_height, grid.padded_width)
    shifts = (-grid.shift_frames, -grid.shift_height, -grid.shift_width)
    frames, rows, columns = grid.counts
    tiles = values.roll(shifts, (0, 1, 2)).view(
        frames, grid.window_frames, rows, grid.window_height, columns, grid.window_width
    )
    order = tiles.permute(0, 2, 4, 1, 3, 5).reshape(-1)
    return Permutation(order, torch.empty_like(order).scatter_(0, order, numbers))


def _video_reorder(source: VideoGrid, target: VideoGrid, device: torch.device) -> Permutation:
    a, b = video_order(source, device), video_order(target, device)
    return Permutation(a.inverse[b.forward], b.inverse[a.forward])


def _block_masks(grid: VideoGrid, device: torch.device, dtype: torch.dtype) -> Tensor:
    masks = []
    for block in all_blocks(grid):
        frames, rows, columns = (torch.tensor(axis.regions) for axis in block.axes)
        region = frames[:, None, None] + 2 * rows[:, None] + 4 * columns
        absent = torch.tensor(block.axes[0].absent)[:, None, None].expand(region.shape)
        region, absent = region.flatten(), absent.flatten()
        apart = (region[:, None] != region[None, :]) | absent[None, :]
        masks.append(torch.zeros(apart.shape, dtype=dtype).masked_fill_(apart, MASKED_SCORE))
    return torch.stack(masks).to(device)


def _video_relative_index(
    grid: VideoGrid, window_frames: int, window: int, device: torch.device
) -> Tensor:
    def differences(size: int, largest: int) -> Tensor:
        position = torch.arange(size, device=device)
        return position[:, None] - position[None, :] + largest - 1

    dt = differences(grid.window_frames, window_frames)[:, None, None, :, None, None]
    dy = differences(grid.window_height, window)[None, :, None, None, :, None]
    dx = differences(grid.window_width, window)[None, None, :, None, None, :]
    side = 2 * window - 1
    return ((dt * side + dy) * side + dx).reshape(-1)
