"""The learning rate as a pure function of the step, so that a resume needs no scheduler state."""

from __future__ import annotations

import math

from florence.config import Optimizer


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """Learning rate of the 0-based ``step`` of ``steps``.

    Linear warm-up that reaches the peak on step ``warmup_steps - 1``, then half a cosine that
    reaches ``min_lr_fraction`` of the peak on the last step. A default warm-up longer than the
    stage is cut to a tenth of it.
    """
    warmup = optimizer.warmup_steps
    if warmup >= steps:
        warmup = steps // 10
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    progress = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
    floor = optimizer.min_lr_fraction
    return optimizer.lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))
