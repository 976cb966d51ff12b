"""Writing videos: frames as a file, and files anew with another size and frame rate."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from florence.data.video.decoding import open_clip
from florence.data.video.files import BrokenClipError, ClipLimits, Frame
from florence.data.video.sampling import resampled

_BLOCK = 64
"""Frames decoded at a time when a file is written anew."""

REPEATABLE = {"libx264": {"mbtree": "0"}}
"""Options by codec. x264's macroblock tree reads memory that it has not written: of the small clips
of digits every fifteenth came out differently in another process."""


def write_clip(
    frames: Iterable[Frame],
    *,
    rate: float,
    container: str = "mp4",
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    pixels: str = "yuv420p",
) -> bytes:
    """RGB frames of one size as a video file; the same frames give the same bytes.

    Args:
        frames: uint8 ``(H, W, 3)``, at least one. yuv420p needs even sides: an odd one is cut.
        rate: frames per second.
        container, codec, pixels: in FFmpeg's names.
        options: of the codec; for libx264 such as ``{"crf": "18"}``.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream: Any = None
        for number, frame in enumerate(frames):
            height, width = (side // 2 * 2 for side in frame.shape[:2])
            if stream is None:
                stream = out.add_stream(codec, rate=Fraction(rate).limit_denominator(1001))
                stream.width, stream.height, stream.pix_fmt = width, height, pixels
                stream.codec_context.thread_count = 1
                stream.options = {**REPEATABLE.get(codec, {}), **(options or {})}
            picture = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(frame[:height, :width]), format="rgb24"
            )
            picture.pts = number
            out.mux(stream.encode(picture))
        if stream is None:
            raise ValueError("there is no frame to write")
        out.mux(stream.encode(None))
    return buffer.getvalue()


def rewritten(
    data: bytes,
    *,
    short_side: int | None,
    rate: float | None,
    between: tuple[float, float] | None = None,
    limits: ClipLimits | None = None,
    quality: int = 23,
) -> bytes:
    """A video as H.264 in mp4, smaller and at a constant rate; sound is left out.

    Args:
        short_side: of the new frames in pixels, where the old ones' is longer.
        rate: frames per second; the old number of frames over the old duration where None.
        between: seconds from which and before which frames are taken.
        limits: what the video may have at most.
        quality: libx264's constant rate factor, 0 (best) to 51.

    Raises:
        BrokenClipError: it cannot be decoded, or has no frame between the seconds.
    """
    with open_clip(data, limits) as clip:
        numbers = resampled(clip.times, clip.duration, rate)
        if between is not None:
            # At a constant rate, frame n is shown at n / rate.
            shown = np.arange(len(numbers)) / rate if rate else clip.times[numbers]
            numbers = numbers[(shown >= between[0] - 1e-6) & (shown < between[1] - 1e-6)]
            if not len(numbers):
                raise BrokenClipError(
                    f"video of {clip.duration:.1f} s has no frame from {between[0]:g} to "
                    f"{between[1]:g} s"
                )
        own = len(clip.times) / clip.duration if clip.duration > 0 else 25.0

        def frames() -> Iterable[Frame]:
            for start in range(0, len(numbers), _BLOCK):
                for frame in clip.frames(numbers[start : start + _BLOCK].tolist()):
                    yield _shrunk(frame, short_side)

        options = {"crf": str(quality), "preset": "veryfast"}
        return write_clip(frames(), rate=rate or own, options=options)


def _shrunk(frame: Frame, short_side: int | None) -> Frame:
    height, width = frame.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return frame
    scale = short_side / min(height, width)
    size = (max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
