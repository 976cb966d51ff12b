"""How fast a stage goes, and how long it still takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

_WINDOW_STEPS = 50


class Meter:
    """Steps per second over the last fifty steps; the first step, which warms up, is not counted.

    Args:
        clock: seconds; only differences matter.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque(maxlen=_WINDOW_STEPS + 1)

    def step(self, step: int) -> None:
        """Note that ``step`` steps are done."""
        self._marks.append((self._clock(), step))

    def pause(self) -> None:
        """Forget what was measured: what follows (a checkpoint, say) is not training."""
        self._marks.clear()

    @property
    def steps_per_second(self) -> float | None:
        """The rate; ``None`` until two steps were measured."""
        if len(self._marks) < 2:
            return None
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start else None

    def seconds_left(self, total: int) -> float | None:
        """Time for the steps up to ``total`` at the measured rate."""
        rate = self.steps_per_second
        return (total - self._marks[-1][1]) / rate if rate else None
