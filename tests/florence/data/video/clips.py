"""Videos of known colours, and broken ones."""

from __future__ import annotations

import io
import struct
from fractions import Fraction

import av
import numpy as np

from florence.data.video.files import Frame
from florence.data.video.writing import write_clip

GREYS = [20 + 9 * number for number in range(24)]
"""The grey of each frame: far enough apart for every codec."""
EXACT = {"crf": "1", "preset": "ultrafast"}


def grey(value: int, width: int = 64, height: int = 48) -> Frame:
    """A frame of one grey."""
    return np.full((height, width, 3), value, np.uint8)


def counting(count: int = 24, *, rate: float = 10, width: int = 64, height: int = 48) -> bytes:
    """An mp4 whose frame ``n`` has the grey ``GREYS[n]``, with key frames every 6."""
    frames = (grey(GREYS[n % len(GREYS)], width, height) for n in range(count))
    return write_clip(frames, rate=rate, options={**EXACT, "g": "6", "bf": "2"})


def shown(frame: Frame) -> int:
    """The number of the frame that has this grey."""
    return int(np.abs(np.array(GREYS) - float(frame.mean())).argmin())


def varying(times: list[float]) -> bytes:
    """An mp4 with a frame at each of some seconds."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=1000, options=EXACT)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, second in enumerate(times):
            frame = av.VideoFrame.from_ndarray(grey(GREYS[number]), format="rgb24")
            frame.pts, frame.time_base = round(1000 * second), Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def turned(data: bytes) -> bytes:
    """An mp4 that is to be shown turned clockwise by a quarter, as phones write them."""
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    quarter = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    track = data.index(b"tkhd")
    place = data.index(upright, track)
    return data[:place] + quarter + data[place + len(quarter) :]


def sound_only() -> bytes:
    """An mp4 without a picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def without_frames(container: str, codec: str) -> bytes:
    """A file with a track of pictures and no picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        out.start_encoding()
    return buffer.getvalue()
