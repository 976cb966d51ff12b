"""The learning rate as a pure function of the step, so that a resume needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass

from florence.config import Optimizer, Schedule


def learning_rate(
    step: int, steps: int, optimizer: Optimizer, plateau: Plateau | None = None
) -> float:
    """Learning rate of the 0-based ``step`` of ``steps``, before any parameter's own scale.

    Linear warm-up that reaches the peak on step ``warmup_steps - 1``, then the schedule; cosine and
    linear reach ``min_lr_fraction`` of the peak on the last step.

    Args:
        plateau: what evaluations so far did, for the schedule of that name.
    """
    warmup = warmup_steps(steps, optimizer)
    if step < warmup:
        return optimizer.lr * (step + 1) / warmup
    progress = min((step - warmup) / max(steps - 1 - warmup, 1), 1.0)
    return optimizer.lr * _fraction(step / steps, progress, optimizer, plateau)


def warmup_steps(steps: int, optimizer: Optimizer) -> int:
    """Steps of the warm-up in a stage of ``steps``: one longer than the stage is a tenth of it."""
    return optimizer.warmup_steps if optimizer.warmup_steps < steps else steps // 10


def _fraction(done: float, progress: float, optimizer: Optimizer, plateau: Plateau | None) -> float:
    """The part of the peak after ``done`` of all steps and ``progress`` of those after warm-up."""
    floor = optimizer.min_lr_fraction
    match optimizer.schedule:
        case Schedule.COSINE:
            return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
        case Schedule.LINEAR:
            return floor + (1 - floor) * (1 - progress)
        case Schedule.STEP:
            fallen = sum(done >= at for at in optimizer.decay_at)
            return max(optimizer.decay_factor**fallen, floor)
        case Schedule.PLATEAU:
            return max(optimizer.decay_factor ** (plateau.fallen if plateau else 0), floor)
        case Schedule.CONSTANT:
            return 1.0


@dataclass(slots=True)
class Plateau:
    """When evaluations stopped improving; a part of every checkpoint.

    ``waited`` evaluations since the last improvement or fall, ``fallen`` how often the rate fell.
    """

    waited: int = 0
    fallen: int = 0

    def note(self, improved: bool, patience: int) -> bool:
        """Note an evaluation, which was the best so far or not; whether the rate falls now."""
        if improved:
            self.waited = 0
            return False
        self.waited += 1
        if self.waited < patience:
            return False
        self.waited = 0
        self.fallen += 1
        return True
