"""What reduces the resolution of clips at the start of each stage.

Shapes: B clips, T x H x W tokens of C channels, channels last.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config.model import Embedding
from florence.models.patch_embed import PatchMerging


class TubeEmbed(nn.Module):
    """A convolution over time and space, then a layer norm.

    Clips are continued in time by their last tokens, never by zeros: so that a clip whose frames
    are all alike is embedded as the frame is, at its ends too.

    Args:
        channels, width: before and after.
        kernel, stride, padding: in space, as :class:`florence.models.patch_embed.ConvEmbed` has.
        kernel_time, stride_time: in time. A stride of 1 keeps the length, with the kernel
            centred; else kernel and stride are the same, and a tube is one token.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        *,
        kernel: int,
        stride: int,
        padding: int,
        kernel_time: int,
        stride_time: int,
    ) -> None:
        super().__init__()
        self.proj = nn.Conv3d(
            channels,
            width,
            (kernel_time, kernel, kernel),
            (stride_time, stride, stride),
            (0, padding, padding),
        )
        self.norm = nn.LayerNorm(width)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for the kernel, zero bias, identity norm."""
        nn.init.trunc_normal_(self.proj.weight, std=0.02, generator=generator)
        if self.proj.bias is not None:
            nn.init.zeros_(self.proj.bias)
        self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, ceil(T/stride_time), ~H/stride, ~W/stride, width)."""
        x = self._continued(x.permute(0, 4, 1, 2, 3))
        if self.proj.padding[1:] == (0, 0):
            bottom, right = -x.shape[3] % self.proj.stride[1], -x.shape[4] % self.proj.stride[2]
            x = F.pad(x, (0, right, 0, bottom)) if bottom or right else x
        return cast(Tensor, self.norm(self.proj(x).permute(0, 2, 3, 4, 1)))

    def _continued(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) with its first and last frames repeated as the kernel needs."""
        kernel, stride = self.proj.kernel_size[0], self.proj.stride[0]
        before, after = (kernel // 2, kernel // 2) if stride == 1 else (0, -x.shape[2] % stride)
        if not before and not after:
            return x
        first, last = x[:, :, :1], x[:, :, -1:]
        return torch.cat([*[first] * before, x, *[last] * after], dim=2)


class FrameMerging(PatchMerging):
    """Swin's merge of 2 x 2 patches in every frame, as Video Swin has it."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B, T, ceil(H/2), ceil(W/2), width)."""
        merged = super().forward(x.flatten(0, 1))
        return merged.view(*x.shape[:2], *merged.shape[1:])


def video_downsampling(
    kind: Embedding, stage: int, channels: int, width: int, *, tubelet: int, kernel_time: int
) -> nn.Module:
    """What stands in front of stage ``stage`` (0 to 3), from ``channels`` to ``width``."""
    if kind is Embedding.CONV:
        kernel, stride, padding = (7, 4, 2) if stage == 0 else (3, 2, 1)
    elif stage == 0:
        kernel, stride, padding = 4, 4, 0
    else:
        return FrameMerging(channels, width)
    return TubeEmbed(
        channels,
        width,
        kernel=kernel,
        stride=stride,
        padding=padding,
        kernel_time=kernel_time if stage else tubelet,
        stride_time=1 if stage else tubelet,
    )
