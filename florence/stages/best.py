"""The best evaluation of a stage so far: which model to keep, and when to stop looking."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(slots=True)
class Best:
    """The best evaluation so far; a part of every checkpoint.

    ``value`` is its first metric (higher is better; None before the first), ``step`` when it was
    taken, ``waited`` how many evaluations followed.
    """

    value: float | None = None
    step: int = 0
    waited: int = 0

    def note(self, value: float, step: int) -> bool:
        """Note an evaluation; whether it is the best. What is not finite is no improvement."""
        if math.isfinite(value) and (self.value is None or value > self.value):
            self.value, self.step, self.waited = value, step, 0
            return True
        self.waited += 1
        return False

    def is_better_than(self, metrics: Mapping[str, float]) -> bool:
        """Whether it is strictly better than another evaluation's first metric."""
        value = next(iter(metrics.values()), math.nan)
        return self.value is not None and not value >= self.value
