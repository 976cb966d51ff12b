"""Dynamic Head: attention over scale, space and channels of a feature pyramid, block by block.

Source: Dynamic Head (arXiv 2106.08322) and its released configuration. One thing is as the paper
has it and not the release: a coarser level is brought to the size of the finer one *before* its
deformable convolution, so that the offsets, which are the finer level's, fit.

Shapes: B images, C channels, L levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence.tasks.detection.deformable import deform_conv
from florence.tasks.detection.shape import DetectorShape, Normalisation

TAPS = 9
REDUCTION = 4
STD = 0.01


def hard_sigmoid(x: Tensor) -> Tensor:
    """min(max((x + 3) / 6, 0), 1)."""
    return F.hardsigmoid(x)


class DeformableLayer(nn.Module):
    """A 3 x 3 deformable convolution and a norm."""

    def __init__(self, shape: DetectorShape) -> None:
        super().__init__()
        channels = shape.channels
        self.weight = nn.Parameter(torch.empty(channels, channels, 3, 3))
        self.norm = _norm(shape)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter of the layer."""
        nn.init.normal_(self.weight, std=STD, generator=generator)
        if isinstance(self.norm, nn.GroupNorm):
            self.norm.reset_parameters()

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor, stride: int) -> Tensor:
        """(B, C, H, W), with taps as :func:`deform_conv` has them, to (B, C, H', W')."""
        return cast(Tensor, self.norm(deform_conv(x, offset, mask, self.weight, stride=stride)))


class ScaleAttention(nn.Module):
    """How much a map counts: one number in [0, 1] for each image, from the mean over the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter."""
        _normal(self.conv, generator)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 1, 1, 1)."""
        return hard_sigmoid(F.relu(self.conv(x.mean(dim=(2, 3), keepdim=True))))


class DynamicReLU(nn.Module):
    """The larger of two lines for each channel, whose slopes the whole map decides (2003.10027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // REDUCTION)
        self.fc2 = nn.Linear(channels // REDUCTION, 4 * channels)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every parameter."""
        for linear in (self.fc1, self.fc2):
            nn.init.normal_(linear.weight, std=STD, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        y = hard_sigmoid(self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3)))))) - 0.5
        a1, b1, a2, b2 = y[:, :, None, None].chunk(4, dim=1)
        return torch.maximum(x * (2 * a1 + 1) + b1, x * (2 * a2) + b2)


class DynamicHeadBlock(nn.Module):
    """Each level takes from itself and from the levels below and above it where its own map says.

    The three looks are deformable convolutions with one field of offsets and masks; each counts as
    its scale attention says; their mean goes through a dynamic ReLU. All levels share the weights.
    """

    def __init__(self, shape: DetectorShape) -> None:
        super().__init__()
        channels = shape.channels
        self.offset = nn.Conv2d(channels, 3 * TAPS, 3, padding=1)
        self.finer = DeformableLayer(shape)
        self.same = DeformableLayer(shape)
        self.coarser = DeformableLayer(shape)
        self.scale = ScaleAttention(channels)
        self.relu = DynamicReLU(channels)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise: normal of 0.01, zero biases, identity norms."""
        _normal(self.offset, generator)
        for layer in (self.finer, self.same, self.coarser, self.scale, self.relu):
            layer.reset_parameters(generator)

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        """L maps (B, C, H_i, W_i), finest first, to the same."""
        return tuple(self._level(levels, number) for number in range(len(levels)))

    def _level(self, levels: Sequence[Tensor], number: int) -> Tensor:
        x = levels[number]
        where = self.offset(x)
        offset, mask = where[:, : 2 * TAPS], where[:, 2 * TAPS :].sigmoid()
        terms = [self._weighted(self.same(x, offset, mask, 1))]
        if number > 0:
            terms.append(self._weighted(self.finer(levels[number - 1], offset, mask, 2)))
        if number + 1 < len(levels):
            above = F.interpolate(
                levels[number + 1], size=x.shape[-2:], mode="bilinear", align_corners=True
            )
            terms.append(self._weighted(self.coarser(above, offset, mask, 1)))
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return cast(Tensor, self.relu(total / len(terms)))

    def _weighted(self, x: Tensor) -> Tensor:
        return x * cast(Tensor, self.scale(x))


class DynamicHead(nn.Module):
    """Blocks one after the other.

    Args:
        shape: their number and sizes.
        recompute: whether the backward pass computes each block again instead of keeping its
            activations; changes memory and time, never the result.
    """

    def __init__(self, shape: DetectorShape, *, recompute: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(DynamicHeadBlock(shape) for _ in range(shape.blocks))
        self.recompute = recompute

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every block."""
        for block in self.blocks:
            cast(DynamicHeadBlock, block).reset_parameters(generator)

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """L maps (B, C, H_i, W_i), finest first, to the same."""
        current = tuple(levels)
        for block in self.blocks:
            if self.recompute and self.training and torch.is_grad_enabled():
                current = checkpoint(block, *current, use_reentrant=False)
            else:
                current = block(*current)
        return list(current)


def _norm(shape: DetectorShape) -> nn.Module:
    match Normalisation(shape.normalisation):
        case Normalisation.GROUP:
            return nn.GroupNorm(shape.groups, shape.channels)
        case Normalisation.LAYER:
            return nn.GroupNorm(1, shape.channels)
        case Normalisation.NONE:
            return nn.Identity()


def _normal(conv: nn.Conv2d, generator: Generator | None) -> None:
    nn.init.normal_(conv.weight, std=STD, generator=generator)
    nn.init.zeros_(cast(Tensor, conv.bias))
