"""Which frames are looked at (test K5)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config.video import ClipSampling, ShortClip
from florence.data.video.sampling import (
    even_frames,
    even_spans,
    random_span,
    resampled,
    shown_at,
)

SHORT = ClipSampling(frames=4, stride=2)


def test_golden_values() -> None:
    """mmaction's rules for 300 frames, 32 x 2, four clips: starts at 29, 88, 148 and 207."""
    spans = even_spans(300, ClipSampling(), 4)
    assert spans[:, 0].tolist() == [29, 88, 148, 207]
    assert spans[0].tolist() == list(range(29, 29 + 64, 2))
    assert even_spans(8, SHORT, 2).tolist() == [[0, 2, 4, 6], [0, 2, 4, 6]]
    assert even_spans(5, SHORT, 1).tolist() == [[0, 2, 4, 1]]
    clamped = SHORT.model_copy(update={"short": ShortClip.CLAMP})
    assert even_spans(5, clamped, 1).tolist() == [[0, 2, 4, 4]]
    assert random_span(10, SHORT, 5).tolist() == [2, 4, 6, 8]
    assert random_span(1, SHORT, 5).tolist() == [0, 0, 0, 0]


samplings = st.builds(
    ClipSampling,
    frames=st.integers(1, 40),
    stride=st.integers(1, 5),
    short=st.sampled_from(list(ShortClip)),
)


@given(count=st.integers(1, 200), sampling=samplings, number=st.integers(0, 2**64 - 1))
def test_spans_are_inside_and_regular(count: int, sampling: ClipSampling, number: int) -> None:
    for span in (random_span(count, sampling, number), *even_spans(count, sampling, 4)):
        assert len(span) == sampling.frames
        assert span.min() >= 0
        assert span.max() < count
        if count >= sampling.frames * sampling.stride:
            assert set(np.diff(span).tolist()) <= {sampling.stride}


@given(count=st.integers(8, 30))
def test_every_start_is_drawn(count: int) -> None:
    starts = {int(random_span(count, SHORT, number)[0]) for number in range(200)}
    assert starts == set(range(count - 7))


def test_a_constant_rate_shows_what_is_shown() -> None:
    times = np.array([0.0, 0.1, 0.5, 0.6, 2.0])
    assert shown_at(times, np.array([0.0, 0.09, 0.1, 0.49, 0.5, 1.99, 9.0])).tolist() == [
        0,
        0,
        1,
        1,
        2,
        3,
        4,
    ]
    assert resampled(times, 2.5, 2).tolist() == [0, 2, 3, 3, 4]
    assert resampled(times, 2.5, None).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("seconds", [0.3, 5, 12, 40])
def test_one_frame_a_second_and_at_most_twelve(seconds: float) -> None:
    times = np.arange(int(seconds * 10)) / 10
    numbers = even_frames(times, seconds, per_second=1, most=12)
    assert len(numbers) == min(12, max(1, int(seconds)))
    assert numbers[0] == 0
    if seconds > 12:
        assert times[numbers[-1]] == pytest.approx(39)
    else:
        assert (np.diff(times[numbers]) == 1).all()
