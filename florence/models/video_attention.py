"""Multi-head attention inside windows over time and space.

Shapes: B clips, W windows per clip, N tokens per window, h heads of d channels, C = h * d.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Generator, Tensor, nn

from florence.config.model import Attention
from florence.models.attention import attend_math, attend_sdpa, resolve_attention
from florence.models.video_windows import (
    VideoGrid,
    all_blocks,
    block_masks,
    video_relative_index,
    window_blocks,
)


class VideoWindowAttention(nn.Module):
    """Self-attention of the tokens of each window of a clip (Liu et al. 2021, arXiv 2106.13230).

    ``window_frames`` and ``window`` are the sides the bias table is made for; the windows of a call
    may be smaller. Weights have the names of :class:`florence.models.attention.WindowAttention`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window_frames: int,
        window: int,
        implementation: Attention = Attention.AUTO,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window_frames = window_frames
        self.window = window
        self.implementation = implementation
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        rows = (2 * window_frames - 1) * (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, heads))

    def no_weight_decay(self) -> set[str]:
        """Parameters of this module that are no matrices, whatever their shape."""
        return {"relative_position_bias_table"}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for matrices and the table, zero for biases."""
        for matrix in (self.qkv.weight, self.proj.weight, self.relative_position_bias_table):
            nn.init.trunc_normal_(matrix, std=0.02, generator=generator)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, grid: VideoGrid) -> Tensor:
        """Attend within windows: (B, W * N, C) in the grid's window order, to the same."""
        batch = x.shape[0]
        qkv = self.qkv(x).view(batch, grid.windows, grid.tokens, 3, self.heads, -1)
        chosen = resolve_attention(self.implementation, x.device, qkv.dtype, self.training)
        if chosen is Attention.SDPA:
            attended = self._attend_by_block(qkv, grid)
        else:
            attended = attend_math(qkv, self.bias(grid), lambda s: _mask_scores(s, grid))
        return cast(Tensor, self.proj(attended))

    def bias(self, grid: VideoGrid) -> Tensor:
        """The learned part of what is added to the scores: (1, h, N, N)."""
        table = self.relative_position_bias_table
        index = video_relative_index(grid, self.window_frames, self.window, table.device)
        bias = table.t().index_select(1, index)
        return bias.view(1, self.heads, grid.tokens, grid.tokens)

    def _attend_by_block(self, qkv: Tensor, grid: VideoGrid) -> Tensor:
        """The fused kernel, once for each mask: windows of one block share bias and mask."""
        bias = self.bias(grid)
        if not grid.is_masked:
            return attend_sdpa(qkv, bias)
        masks = block_masks(grid, bias.device, bias.dtype)
        batch, channels = len(qkv), qkv.shape[-2] * qkv.shape[-1]
        tiles = qkv.view(batch, *grid.counts, *qkv.shape[2:])
        number, planes = 0, []
        for plane in window_blocks(grid):
            rows = []
            for row in plane:
                columns = []
                for block in row:
                    part = tiles[(slice(None), *block.slices)]
                    out = attend_sdpa(part.flatten(1, 3), bias + masks[number])
                    columns.append(out.view(*part.shape[:4], grid.tokens, channels))
                    number += 1
                rows.append(torch.cat(columns, dim=3))
            planes.append(torch.cat(rows, dim=2))
        return torch.cat(planes, dim=1).view(batch, -1, channels)


def _mask_scores(scores: Tensor, grid: VideoGrid) -> None:
    """Add a grid's masks to scores (B, W, h, N, N), in place."""
    if not grid.is_masked:
        return
    masks = block_masks(grid, scores.device, scores.dtype)
    # Detached: a constant that is added does not change a gradient, and autograd would copy the
    # whole of it for every slice that is changed.
    tiles = scores.detach().view(len(scores), *grid.counts, *scores.shape[2:])
    for number, block in enumerate(all_blocks(grid)):
        if block.is_masked:
            tiles[(slice(None), *block.slices)].add_(masks[number])
