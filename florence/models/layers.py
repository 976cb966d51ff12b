"""What both towers' blocks are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence.config.model import Activation


class Mlp(nn.Module):
    """An image block's MLP: two linear layers with an exact GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Truncated normal of 0.02 for matrices, zero for biases."""
        for linear in (self.fc1, self.fc2):
            nn.init.trunc_normal_(linear.weight, std=0.02, generator=generator)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) to (…, C)."""
        return cast(Tensor, self.fc2(F.gelu(self.fc1(x))))


def activate(x: Tensor, activation: Activation) -> Tensor:
    """Exact GELU, or x * sigmoid(1.702 x), the approximation OpenAI's CLIP was trained with."""
    return F.gelu(x) if activation is Activation.GELU else x * (1.702 * x).sigmoid()


def recompute(function: Callable[..., Tensor], *args: Any) -> Tensor:
    """Call ``function`` and let the backward pass call it again instead of keeping activations."""
    result: Tensor = checkpoint(function, *args, use_reentrant=False)
    return result
