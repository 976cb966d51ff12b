"""Clips and views: the same crop for all frames, and the right frames in the right order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from florence.config import Augmentation
from florence.config.video import ClipSampling, Views
from florence.data.video.decoding import open_clip
from florence.data.video.files import Frame
from florence.data.video.pixels import augmented, crops_of, spans_of, train_clip, view_clips
from florence.data.video.sampling import even_spans
from florence.data.video.writing import write_clip
from tests.florence.data.video.clips import EXACT, counting, shown

SAMPLING = ClipSampling(frames=4, stride=2)


def _still() -> bytes:
    """A video of one picture with a different colour in every corner."""
    frame = np.zeros((48, 64, 3), np.uint8)
    frame[:24, :32], frame[:24, 32:], frame[24:, :32] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return write_clip([frame] * 12, rate=10, options={**EXACT, "crf": "0"}, pixels="yuv444p")


def test_a_clip_of_training_is_a_span() -> None:
    clip = train_clip(counting(), 32, SAMPLING, Augmentation(), span=5, crop=1)
    assert clip.shape == (4, 3, 32, 32)
    assert clip.dtype == np.uint8
    assert [shown(frame) for frame in clip] == [5, 7, 9, 11]


def test_all_frames_are_cropped_and_changed_alike() -> None:
    still = _still()
    augmentation = Augmentation(scale_min=0.2, rotation=10)
    seen = []
    for crop in range(6):
        clip = train_clip(still, 24, SAMPLING, augmentation, span=0, crop=crop)
        clip = augmented(clip, operations=2, magnitude=9, number=crop)
        assert all(np.abs(frame.astype(int) - clip[0]).max() <= 3 for frame in clip)
        seen.append(clip[0])
    assert any(np.abs(seen[0].astype(int) - other).max() > 50 for other in seen[1:])


def test_a_clip_is_a_function_of_its_numbers() -> None:
    data = counting()

    def make(span: int, crop: int) -> np.ndarray:
        return train_clip(data, 16, SAMPLING, Augmentation(), span=span, crop=crop)

    assert np.array_equal(make(3, 4), make(3, 4))
    assert not np.array_equal(make(3, 4), make(4, 4))


def test_views_are_spans_by_crops() -> None:
    views = view_clips(counting(), 32, SAMPLING, Views(spans=2, crops=3))
    assert views.shape == (6, 4, 3, 32, 32)
    starts = [[shown(frame) for frame in view] for view in views]
    assert starts == [[4, 6, 8, 10]] * 3 + [[12, 14, 16, 18]] * 3


@pytest.mark.parametrize(("shape", "moves"), [((48, 96), 2), ((96, 48), 1)])
def test_three_crops_are_the_ends_and_the_middle(shape: tuple[int, int], moves: int) -> None:
    frame = np.zeros((*shape, 3), np.uint8)
    ramp = np.arange(96, dtype=np.uint8) * 2
    frame[:] = ramp[None, :, None] if moves == 2 else ramp[:, None, None]
    first, middle, last = (int(crop.mean()) for crop in crops_of(frame, 48, 3))
    assert (first, middle, last) == pytest.approx((47, 95, 143), abs=2)
    assert int(crops_of(frame, 48, 1)[0].mean()) == middle


def test_a_part_of_a_video() -> None:
    with open_clip(counting()) as clip:
        views = spans_of(clip, 32, SAMPLING, Views(spans=1, crops=1), between=(1.0, 1.8))
        assert [shown(frame) for frame in views[0]] == [10, 12, 14, 16]
        late = spans_of(clip, 32, SAMPLING, Views(spans=1, crops=1), between=(2.35, 2.4))
        assert {shown(frame) for frame in late[0]} == {23}


def test_a_frame_of_several_views_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_clip(counting()) as clip:
        asked: list[int] = []
        decode = clip.frames

        def frames(numbers: Sequence[int]) -> list[Frame]:
            asked.extend(numbers)
            return decode(numbers)

        monkeypatch.setattr(clip, "frames", frames)
        sampling = ClipSampling(frames=8, stride=2)
        views = spans_of(clip, 16, sampling, Views(spans=4, crops=3))
    assert views.shape == (12, 8, 3, 16, 16)
    spans = even_spans(24, sampling, 4)
    assert len(set(spans.ravel().tolist())) < spans.size
    assert sorted(asked) == sorted(set(spans.ravel().tolist()))
