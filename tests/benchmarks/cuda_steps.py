"""The time and memory of a step on a CUDA device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARM_UP = 3


def measured(step: Callable[[], object], rounds: int) -> tuple[float, int]:
    """Seconds of the median of some steps after a warm-up, and the peak memory in bytes."""
    torch.cuda.reset_peak_memory_stats()
    seconds = []
    for number in range(WARM_UP + rounds):
        torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated()
