"""Which frames of a video are looked at: pure functions of its length and a number.

A *span* is ``frames * stride`` frames long, of which every ``stride``-th is taken (Video Swin,
arXiv 2106.13230; the rules are mmaction's). A video that is shorter than the span is looped, or its
last frame stands.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from florence.config.video import ClipSampling, ShortClip

Numbers = NDArray[np.int64]


def resampled(times: NDArray[np.float64], duration: float, rate: float | None) -> Numbers:
    """The frames shown at a constant rate: at 0, 1/rate, 2/rate … seconds; all where None.

    Args:
        times: seconds at which each frame is shown, rising from 0.
        duration: seconds to the end of the last frame.
        rate: frames per second.
    """
    if rate is None:
        return np.arange(len(times), dtype=np.int64)
    count = max(1, int(np.floor(duration * rate + 1e-6)))
    return shown_at(times, np.arange(count) / rate)


def shown_at(times: NDArray[np.float64], wanted: NDArray[np.float64]) -> Numbers:
    """The numbers of the frames that are shown at some seconds."""
    numbers = np.searchsorted(times, wanted + 1e-6, side="right") - 1
    return np.clip(numbers, 0, len(times) - 1).astype(np.int64)


def random_span(count: int, sampling: ClipSampling, number: int) -> Numbers:
    """One span at random: where it starts is decided by ``number``, of 64 random bits.

    Args:
        count: frames of the video, at least 1.

    Returns:
        int64 ``(frames,)`` in ``[0, count)``.
    """
    starts = count - sampling.frames * sampling.stride + 1
    return _span(number % starts if starts > 0 else 0, count, sampling)


def even_spans(count: int, sampling: ClipSampling, spans: int) -> Numbers:
    """Spans whose starts are evenly spaced: int64 ``(spans, frames)`` in ``[0, count)``."""
    room = max(0, count - sampling.frames * sampling.stride + 1)
    step = room / spans
    starts = [int(step * span + step / 2) for span in range(spans)]
    return np.stack([_span(start, count, sampling) for start in starts])


def even_frames(
    times: NDArray[np.float64], duration: float, *, per_second: float, most: int
) -> Numbers:
    """Single frames at a rate, at most so many, evenly spaced then (CLIP4Clip's protocol)."""
    numbers = resampled(times, duration, per_second)
    if len(numbers) <= most:
        return numbers
    chosen = np.linspace(0, len(numbers) - 1, most).astype(np.int64)
    return numbers[chosen]


def _span(start: int, count: int, sampling: ClipSampling) -> Numbers:
    numbers = start + sampling.stride * np.arange(sampling.frames, dtype=np.int64)
    if sampling.short is ShortClip.LOOP:
        return numbers % count
    return np.minimum(numbers, count - 1)
