"""Multi-head attention inside windows, with a learned bias per relative position.

Shapes: B images, W windows per image, N tokens per window, h heads of d channels, C = h * d.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config.model import Attention
from florence.models.windows import WindowGrid, region_mask, relative_index

# torch's fused kernel takes at most so many at once, which is CUDA's limit of a grid. It takes more
# in turns, and then its backward pass fails on the gradient of a bias (torch 2.11).
MAX_FUSED_BATCH = 65_535


class WindowAttention(nn.Module):
    """Self-attention of the tokens of each window (Liu et al. 2021, arXiv 2103.14030, eq. 4).

    ``window`` is the side the bias table is made for; the windows of a call may be smaller.
    """

    def __init__(
        self, channels: int, heads: int, window: int, implementation: Attention = Attention.AUTO
    ) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.implementation = implementation
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))

    def no_weight_decay(self) -> set[str]:
        """Parameters of this module that are no matrices, whatever their shape."""
        return {"relative_position_bias_table"}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for matrices and the table, zero for biases."""
        for matrix in (self.qkv.weight, self.proj.weight, self.relative_position_bias_table):
            nn.init.trunc_normal_(matrix, std=0.02, generator=generator)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """Attend within windows: (B, W * N, C) in the grid's window order, to the same."""
        batch = x.shape[0]
        qkv = self.qkv(x).view(batch, grid.windows, grid.tokens, 3, self.heads, -1)
        chosen = resolve_attention(self.implementation, x.device, qkv.dtype, self.training)
        attend = attend_sdpa if chosen is Attention.SDPA else attend_math
        return cast(Tensor, self.proj(attend(qkv, self.bias(grid))))

    def bias(self, grid: WindowGrid) -> Tensor:
        """What is added to the scores, relative bias and the shift's mask: (1 or W, h, N, N)."""
        table = self.relative_position_bias_table
        index = relative_index(grid, self.window, table.device)
        bias = table.t().index_select(1, index)
        bias = bias.view(1, self.heads, grid.tokens, grid.tokens)
        if not grid.is_shifted:
            return bias
        return bias + region_mask(grid, bias.device, bias.dtype).unsqueeze(1)


def resolve_attention(
    implementation: Attention, device: torch.device, dtype: torch.dtype, training: bool
) -> Attention:
    """The implementation that ``auto`` stands for: a rule, so that a resumed run repeats itself.

    On CUDA the fused kernel, which never stores the scores. On the CPU, ``bench_image_tower.py``
    decided: the fused kernel has no gradient for a bias there and loses to ``math`` in training,
    and in bfloat16; in float32 evaluation it wins, two-fold with windows of 12.
    """
    if implementation is not Attention.AUTO:
        return implementation
    if device.type == "cuda" or (dtype is torch.float32 and not training):
        return Attention.SDPA
    return Attention.MATH


def attend_math(
    qkv: Tensor, bias: Tensor, change: Callable[[Tensor], None] = lambda scores: None
) -> Tensor:
    """Attention as two batched products: ``qkv`` (B, W, N, 3, h, d) to (B, W * N, C).

    Args:
        bias: added to the scores.
        change: what else is done to the scores (B, W, h, N, N), in place.
    """
    batch, windows, tokens, _, heads, width = qkv.shape
    q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, -1, tokens, width).unbind(0)
    scores = torch.bmm(q * width**-0.5, k.transpose(1, 2))
    # In place: the product's backward does not need the scores.
    change(scores.view(batch, windows, heads, tokens, tokens).add_(bias))
    out = torch.bmm(scores.softmax(-1), v).view(batch, windows, heads, tokens, width)
    return out.transpose(2, 3).reshape(batch, windows * tokens, heads * width)


def attend_sdpa(qkv: Tensor, bias: Tensor) -> Tensor:
    """The same through ``scaled_dot_product_attention``, fused where the device has a kernel."""
    batch, windows, tokens, _, heads, width = qkv.shape
    if bias.shape[0] == 1 and batch * windows <= MAX_FUSED_BATCH:
        q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        # A bias per window, or more windows than the kernel takes: windows count as heads, so that
        # the bias is broadcast over the batch instead of being repeated for every image.
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).reshape(3, batch, -1, tokens, width).unbind(0)
        bias = bias.expand(windows, -1, -1, -1).reshape(1, windows * heads, tokens, tokens)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    out = out.view(batch, windows, heads, tokens, width)
    return out.transpose(2, 3).reshape(batch, windows * tokens, heads * width)
