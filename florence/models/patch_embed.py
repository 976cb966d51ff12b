"""What reduces resolution at the start of each stage.

Shapes: B images, H x W tokens of C channels, channels last.
"""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config.model import Embedding


class ConvEmbed(nn.Module):
    """CvT's overlapping convolution, then a layer norm (Wu et al. 2021, arXiv 2103.15808).

    The first stage reduces four-fold (kernel 7, stride 4, padding 2), later ones two-fold
    (kernel 3, stride 2, padding 1). Swin's stem, kernel 4 and stride 4, is ``kernel=4``.
    """

    def __init__(
        self, channels: int, width: int, *, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel, stride, padding)
        self.norm = nn.LayerNorm(width)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for the kernel, zero bias, identity norm."""
        nn.init.trunc_normal_(self.proj.weight, std=0.02, generator=generator)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)
        self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ~H/stride, ~W/stride, width)."""
        x = x.permute(0, 3, 1, 2)
        if self.proj.padding == (0, 0):
            x = _pad_to_multiple(x, self.proj.stride[0])
        return cast(Tensor, self.norm(self.proj(x).permute(0, 2, 3, 1)))


class PatchMerging(nn.Module):
    """Swin's merge: each 2 x 2 patch becomes one token of 4C channels, reduced to ``width``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, width, bias=False)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for the matrix, identity norm."""
        nn.init.trunc_normal_(self.reduction.weight, std=0.02, generator=generator)
        self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), width)."""
        batch, height, width, channels = x.shape
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)
        # Swin's order of the four: down first, then right.
        return cast(Tensor, self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3))))


def downsampling(kind: Embedding, stage: int, channels: int, width: int) -> nn.Module:
    """What stands in front of stage ``stage`` (0 to 3), from ``channels`` to ``width``."""
    if kind is Embedding.CONV:
        kernel, stride, padding = (7, 4, 2) if stage == 0 else (3, 2, 1)
        return ConvEmbed(channels, width, kernel=kernel, stride=stride, padding=padding)
    if stage == 0:
        return ConvEmbed(channels, width, kernel=4, stride=4, padding=0)
    return PatchMerging(channels, width)


def _pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    bottom, right = -x.shape[2] % multiple, -x.shape[3] % multiple
    return F.pad(x, (0, right, 0, bottom)) if bottom or right else x
