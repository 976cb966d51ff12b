"""Any frame of any video, by number, exact in time; and what is no such video."""

from __future__ import annotations

import gc
import resource
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.data.video.decoding import decoder, open_clip
from florence.data.video.files import BrokenClipError, ClipLimits
from florence.data.video.pyav import PyAvClip
from florence.data.video.writing import rewritten, write_clip
from tests.florence.data.video.clips import (
    EXACT,
    GREYS,
    counting,
    grey,
    shown,
    sound_only,
    turned,
    varying,
    without_frames,
)

KINDS = [
    ("mp4", "libx264", {**EXACT, "g": "6", "bf": "2"}),
    ("mov", "libx264", {**EXACT, "g": "5"}),
    ("matroska", "libx264", {**EXACT, "g": "6", "bf": "2"}),
    ("webm", "libvpx-vp9", {"g": "6", "crf": "4", "b": "0"}),
    ("avi", "mpeg4", {"g": "6", "qmin": "1", "qmax": "2"}),
    ("mp4", "mpeg4", {"g": "6", "qmin": "1", "qmax": "2", "bf": "2"}),
    ("mp4", "libx265", {"crf": "1", "preset": "ultrafast", "x265-params": "log-level=none"}),
    ("webm", "libvpx", {"g": "6", "crf": "4", "b": "1M"}),
    ("matroska", "libsvtav1", {"g": "6", "crf": "10", "preset": "12"}),
    ("matroska", "ffv1", {}),
    ("mpegts", "libx264", {**EXACT, "g": "6", "bf": "2"}),
    ("flv", "flv", {"g": "6", "qmin": "1", "qmax": "2"}),
    ("asf", "wmv2", {"g": "6", "qmin": "1", "qmax": "2"}),
]


@pytest.mark.parametrize(("container", "codec", "options"), KINDS)
def test_frames_come_back_at_any_seek(container: str, codec: str, options: dict[str, str]) -> None:
    data = write_clip(
        (grey(value) for value in GREYS),
        rate=10,
        container=container,
        codec=codec,
        options=options,
    )
    generator = np.random.default_rng(0)
    with open_clip(data) as clip:
        np.testing.assert_allclose(clip.times, np.arange(24) / 10, atol=1e-3)
        assert clip.duration == pytest.approx(2.4, abs=0.01)
        assert [shown(frame) for frame in clip.frames(range(24))] == list(range(24))
        for _ in range(20):
            wanted = generator.integers(0, 24, generator.integers(1, 5)).tolist()
            assert [shown(frame) for frame in clip.frames(wanted)] == wanted
        for number in reversed(range(24)):
            assert shown(clip.frames([number])[0]) == number


def test_a_stream_without_an_index_is_read_from_its_start_for_its_first_key_frames_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    again = []
    begin = PyAvClip._begin_again
    monkeypatch.setattr(
        PyAvClip, "_begin_again", lambda clip: (again.append(clip._reached), begin(clip))
    )
    data = write_clip(
        (grey(GREYS[number % 24]) for number in range(96)),
        rate=10,
        container="mpegts",
        options={**EXACT, "g": "6", "bf": "2"},
    )
    with open_clip(data) as clip:
        assert [shown(frame) for frame in clip.frames(range(96))] == [n % 24 for n in range(96)]
    assert len(again) <= 2


@settings(max_examples=15, deadline=None)
@given(gaps=st.lists(st.sampled_from([0.04, 0.1, 0.33, 1.5]), min_size=1, max_size=20))
def test_times_of_a_variable_rate_are_exact(gaps: list[float]) -> None:
    times = np.round(np.cumsum([0.0, *gaps]), 3)
    with open_clip(varying(times.tolist())) as clip:
        np.testing.assert_allclose(clip.times, times, atol=1e-3)
        middle = len(times) // 2
        assert shown(clip.frames([middle])[0]) == middle


def test_a_turned_video_is_upright() -> None:
    frame = grey(20)
    frame[:24, :32] = 240  # the corner at the top left, which a turn clockwise puts at the right
    data = write_clip([frame] * 3, rate=10, options=EXACT)
    with open_clip(turned(data)) as clip:
        (upright,) = clip.frames([1])
    assert upright.shape == (64, 48, 3)
    assert upright[:30, 26:].mean() > 200
    assert upright[:30, :22].mean() < 60


def test_odd_sizes_keep_their_pixels() -> None:
    """A codec without shared colours has odd sides."""
    frame = np.zeros((49, 65, 3), np.uint8)
    frame[:, 64], frame[48] = 200, 200
    buffer_frames = [frame, frame]
    data = _odd(buffer_frames)
    with open_clip(data) as clip:
        (found,) = clip.frames([1])
    assert found.shape == (49, 65, 3)
    assert np.abs(found.astype(int) - frame).max() <= 3


def _odd(frames: list[np.ndarray]) -> bytes:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 65, 49, "yuv444p"
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = number
            out.mux(stream.encode(picture))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def test_a_video_of_one_frame() -> None:
    with open_clip(counting(1)) as clip:
        assert clip.times.tolist() == [0.0]
        assert shown(clip.frames([0, 0])[1]) == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "broken video"),
        (b"no video at all" * 40, "broken video"),
        (counting()[:900], "broken video"),
        (sound_only(), "it has sound only"),
        (without_frames("mp4", "libx264"), "it has no pictures"),
        (without_frames("avi", "mpeg4"), "it has no frame"),
    ],
    ids=["empty", "text", "truncated", "sound", "no track", "no frames"],
)
def test_says_what_is_no_video(data: bytes, reason: str) -> None:
    with pytest.raises(BrokenClipError, match=reason) as error, open_clip(data) as clip:
        clip.frames(range(len(clip.times)))
    assert "\n" not in str(error.value)


def test_limits_are_told_before_anything_is_decoded() -> None:
    data = counting()
    for limits, reason in [
        (ClipLimits(seconds=1), "longer than the limit of 1 seconds"),
        (ClipLimits(pixels=100), "64 x 48 pixels is larger than the limit of 100"),
        (ClipLimits(frames=10), "more than 10 frames"),
    ]:
        with pytest.raises(BrokenClipError, match=reason):
            open_clip(data, limits)
    with pytest.raises(BrokenClipError, match="longer than the limit"):
        open_clip(varying([0, 20 * 3600.0]))
    with pytest.raises(BrokenClipError, match="7680 x 4320 pixels is larger than the limit"):
        open_clip(write_clip([grey(20, 7680, 4320)], rate=1, options={"preset": "ultrafast"}))


def test_leaves_no_thread_and_no_memory() -> None:
    """Two thousand clips: none adds a thread, and memory stays within 20 MB of the first 200."""
    data = counting(12)

    def read(times: int) -> None:
        for _ in range(times):
            with open_clip(data) as clip:
                clip.frames([0, 5, 11])

    threads = threading.active_count()
    read(200)
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read(1800)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
    assert threading.active_count() == threads
    with open("/proc/self/status") as status:
        native = next(int(line.split()[1]) for line in status if line.startswith("Threads"))
    with open_clip(data) as clip:
        clip.frames([3])
    with open("/proc/self/status") as status:
        assert native == next(int(line.split()[1]) for line in status if line.startswith("Threads"))


def test_written_anew_smaller_and_at_another_rate() -> None:
    small = rewritten(counting(width=96, height=64), short_side=32, rate=5)
    with open_clip(small) as clip:
        np.testing.assert_allclose(clip.times, np.arange(12) / 5, atol=1e-3)
        frames = clip.frames(range(12))
    assert frames[0].shape == (32, 48, 3)
    assert [shown(frame) for frame in frames] == list(range(0, 24, 2))


def test_names_the_decoder() -> None:
    assert decoder().startswith("PyAV 1")
