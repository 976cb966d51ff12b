"""How fast a stage goes, how long it takes, how much it waits for data and holds in memory."""

from __future__ import annotations

import resource
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

_WINDOW_STEPS = 50


@dataclass(frozen=True, slots=True)
class _Mark:
    time: float
    step: int
    waited: float


class ThroughputMeter:
    """Steps per second over the last fifty steps; the first step, which warms up, is not counted.

    Args:
        clock: seconds; only differences matter.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._marks: deque[_Mark] = deque(maxlen=_WINDOW_STEPS + 1)
        self._waited = 0.0

    def now(self) -> float:
        """The clock's seconds."""
        return self._clock()

    def wait(self, seconds: float) -> None:
        """Note time that a step spent waiting for its batch."""
        self._waited += seconds

    def step(self, step: int) -> None:
        """Note that ``step`` steps are done."""
        self._marks.append(_Mark(self._clock(), step, self._waited))

    def pause(self) -> None:
        """Forget what was measured: what follows (a checkpoint, say) is not training."""
        self._marks.clear()

    @property
    def steps_per_second(self) -> float | None:
        """The rate; ``None`` until two steps were measured."""
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        seconds = last.time - first.time
        return (last.step - first.step) / seconds if seconds > 0 else None

    @property
    def wait_fraction(self) -> float | None:
        """The part of the time that training waited for data; ``None`` as above."""
        if self.steps_per_second is None:
            return None
        first, last = self._marks[0], self._marks[-1]
        return min(1.0, (last.waited - first.waited) / (last.time - first.time))

    def seconds_left(self, total: int) -> float | None:
        """Time for the steps up to ``total`` at the measured rate."""
        rate = self.steps_per_second
        return (total - self._marks[-1].step) / rate if rate else None


def most_memory(device: torch.device) -> int:
    """The most bytes that this process held so far: tensors on its GPU, or all of it on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
