"""The feature pyramid: maps of one width on every scale, from those of the image tower.

Source: FPN (arXiv 1612.03144), with the two coarser levels of RetinaNet and FCOS.
Shapes: B images, C channels of the pyramid, S stages of the tower that feed it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.tasks.detection.shape import DetectorShape


class FeaturePyramid(nn.Module):
    """Each stage's map is normalised and narrowed, and coarser levels are added to finer ones.

    Args:
        widths: channels of the tower's stages that feed the pyramid, finest first.
        shape: channels and strides.
    """

    def __init__(self, widths: Sequence[int], shape: DetectorShape) -> None:
        super().__init__()
        channels = shape.channels
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths)
        self.laterals = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        extra = sum(stride > 32 for stride in shape.strides)
        self.coarser = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(extra)
        )

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Identity norms; uniform convolutions that keep the variance of their input."""
        for norm in self.norms:
            cast(nn.LayerNorm, norm).reset_parameters()
        for conv in (*self.laterals, *self.outputs, *self.coarser):
            conv = cast(nn.Conv2d, conv)
            nn.init.kaiming_uniform_(conv.weight, a=1, generator=generator)
            nn.init.zeros_(cast(Tensor, conv.bias))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """S maps (B, C_i, H_i, W_i), finest first, to levels (B, C, H_i, W_i), finest first.

        Every map must be half as high and wide as the one before.
        """
        narrow = [
            lateral(norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
            for x, norm, lateral in zip(maps, self.norms, self.laterals, strict=True)
        ]
        for number in range(len(narrow) - 2, -1, -1):
            above = F.interpolate(narrow[number + 1], scale_factor=2.0, mode="nearest")
            narrow[number] = narrow[number] + above
        levels = [output(x) for x, output in zip(narrow, self.outputs, strict=True)]
        for number, conv in enumerate(self.coarser):
            levels.append(conv(F.relu(levels[-1]) if number else levels[-1]))
        return levels
