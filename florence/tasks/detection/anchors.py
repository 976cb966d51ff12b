"""One square anchor for every cell of every level of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SIDE = 8
"""Side of an anchor over the stride of its level (DyHead's configurations with ATSS)."""


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a pyramid: a map of ``height`` times ``width`` cells of ``stride`` pixels."""

    height: int
    width: int
    stride: int

    @property
    def cells(self) -> int:
        """How many there are."""
        return self.height * self.width


def levels_of(height: int, width: int, strides: Sequence[int]) -> tuple[Level, ...]:
    """The levels for an image of this many pixels, a multiple of 32 each.

    From stride 64 on each level's map is half the one before, rounded up, as strided convolutions
    make it.
    """
    levels: list[Level] = []
    for stride in strides:
        if stride <= 32:
            levels.append(Level(height // stride, width // stride, stride))
        else:
            before = levels[-1] if levels else Level(height // 32, width // 32, 32)
            levels.append(Level(-(-before.height // 2), -(-before.width // 2), stride))
    return tuple(levels)


@lru_cache(maxsize=256)
def anchors(levels: tuple[Level, ...], device: torch.device | str = "cpu") -> Tensor:
    """fp32 ``(A, 4)``: level by level, row by row; centred in their cells. Not to be written to."""
    return torch.cat([_of_level(level, device) for level in levels])


def _of_level(level: Level, device: torch.device | str) -> Tensor:
    y = (torch.arange(level.height, device=device) + 0.5) * level.stride
    x = (torch.arange(level.width, device=device) + 0.5) * level.stride
    middle = torch.stack(
        [x.expand(level.height, -1), y[:, None].expand(-1, level.width)], dim=-1
    ).reshape(-1, 2)
    half = level.stride * SIDE / 2
    return torch.cat([middle - half, middle + half], dim=-1)
