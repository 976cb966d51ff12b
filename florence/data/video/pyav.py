"""Decoding through PyAV."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from florence.data.video.files import BrokenClipError, ClipLimits, Frame

_MICROSECONDS = 1_000_000


def version() -> str:
    """PyAV's version and that of the FFmpeg library that decodes."""
    codec = ".".join(str(part) for part in av.library_versions["libavcodec"])
    return f"PyAV {av.__version__} (libavcodec {codec})"


class PyAvClip:
    """See :class:`florence.data.video.files.ClipFile`.

    When it is opened, packets are listed and none is decoded: their time stamps, sorted, are those
    of the frames, also where the rate varies and where the container has no index.
    """

    def __init__(self, data: bytes, limits: ClipLimits, threads: int) -> None:
        self._data, self._threads = data, threads
        try:
            self._container: Any = self._opened()
        except (av.FFmpegError, ValueError) as error:
            raise _broken(error) from error
        try:
            self._stream = self._video_stream()
            self._check_size(limits)
            self._stamps, self._keys = self._listed(limits)
        except (av.FFmpegError, ValueError) as error:
            self.close()
            if isinstance(error, BrokenClipError):
                raise
            raise _broken(error) from error
        base = float(self._stream.time_base)
        first, last = self._stamps[0], self._stamps[-1]
        self.times: NDArray[np.float64] = np.array(
            [(stamp - first) * base for stamp in self._stamps], np.float64
        )
        shown = self._last_duration or (last - first) // max(1, len(self._stamps) - 1)
        self.duration = float(self.times[-1]) + shown * base
        self._converter = VideoReformatter()
        self._decoding: Iterator[Any] | None = None
        self._reached = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the decoder and its threads."""
        self._decoding = None
        self._container.close()

    def frames(self, numbers: Sequence[int]) -> list[Frame]:
        """See :class:`florence.data.video.files.ClipFile`."""
        found: dict[int, Frame] = {}
        for number in sorted(set(numbers)):
            try:
                found[number] = self._frame(number)
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, BrokenClipError):
                    raise
                raise _broken(error) from error
        return [found[number] for number in numbers]

    def _frame(self, number: int) -> Frame:
        """A frame, decoded from the nearest key frame before it; or from the start, if need be."""
        wanted = self._stamps[number]
        if self._decoding is None or self._reached >= wanted or self._pays_to_seek(wanted):
            self._seek(wanted)
        frame = self._decode_to(wanted)
        if frame is None:
            frame = self._despite_overshoot(wanted)
        if frame is None:
            raise BrokenClipError(
                f"broken video: the frame at {self.times[number]:.3f} s cannot be decoded"
            )
        return self._upright(frame)

    def _despite_overshoot(self, wanted: int) -> Any | None:
        """A frame that the seek to it went past: some containers have no index, or one that lies.

        In an MPEG transport stream a seek lands a key frame late; before the first it cannot land.
        """
        before = self._keys[self._keys < wanted]
        if len(before) > 1:
            self._seek(int(before[-2]))
            frame = self._decode_to(wanted)
            if frame is not None:
                return frame
        self._begin_again()
        return self._decode_to(wanted)

    def _upright(self, frame: Any) -> Frame:
        """Pixels as they are shown: phones store how they were held beside the frames."""
        # One converter for all frames, of one thread: making one and its threads anew for each
        # frame takes longer than decoding it.
        converted: Any = self._converter.reformat(frame, format="rgb24", threads=1)
        pixels: Frame = converted.to_ndarray()
        turns = round((frame.rotation or 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def _decode_to(self, wanted: int) -> Any | None:
        assert self._decoding is not None
        for frame in self._decoding:
            if frame.pts is None:
                continue
            self._reached = frame.pts
            if frame.pts == wanted:
                return frame
            if frame.pts > wanted:
                return None
        return None

    def _seek(self, stamp: int) -> None:
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._decode_on()

    def _begin_again(self) -> None:
        """Decode from the first byte."""
        self._container.close()
        self._container = self._opened()
        self._stream = self._video_stream()
        self._decode_on()

    def _decode_on(self) -> None:
        """Decode from where the container is."""
        self._decoding = self._container.decode(self._stream)
        self._reached = -1 << 62

    def _pays_to_seek(self, wanted: int) -> bool:
        """Whether a key frame lies between where decoding is and the wanted frame."""
        key = np.searchsorted(self._keys, wanted, side="right") - 1
        return bool(key >= 0 and self._keys[key] > self._reached)

    def _opened(self) -> Any:
        return av.open(io.BytesIO(self._data), metadata_errors="ignore")

    def _video_stream(self) -> Any:
        if not self._container.streams.video:
            what = "it has sound only" if self._container.streams.audio else "it has no pictures"
            raise BrokenClipError(f"broken video: {what}")
        stream = self._container.streams.video[0]
        stream.codec_context.thread_count = self._threads
        return stream

    def _check_size(self, limits: ClipLimits) -> None:
        width, height = self._stream.width, self._stream.height
        if width * height > limits.pixels:
            raise BrokenClipError(
                f"video of {width} x {height} pixels is larger than the limit of {limits.pixels} "
                "pixels a frame: make it smaller"
            )
        seconds = 0.0
        if self._stream.duration is not None and self._stream.time_base is not None:
            seconds = float(self._stream.duration * self._stream.time_base)
        elif self._container.duration is not None:
            seconds = self._container.duration / _MICROSECONDS
        if seconds > limits.seconds:
            raise BrokenClipError(
                f"video of {seconds:.0f} seconds is longer than the limit of {limits.seconds:.0f} "
                "seconds: cut it"
            )

    def _listed(self, limits: ClipLimits) -> tuple[list[int], NDArray[np.int64]]:
        """Time stamps of all frames, rising, and those of key frames."""
        stamps: list[int] = []
        keys: list[int] = []
        durations: dict[int, int] = {}
        for packet in self._container.demux(self._stream):
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size == 0 or stamp is None or packet.is_discard:
                continue
            stamps.append(stamp)
            durations[stamp] = packet.duration or 0
            if packet.is_keyframe:
                keys.append(stamp)
            if len(stamps) > limits.frames:
                raise BrokenClipError(
                    f"video of more than {limits.frames} frames, which is the limit: cut it"
                )
        if not stamps:
            raise BrokenClipError("broken video: it has no frame")
        stamps = sorted(set(stamps))
        base = float(self._stream.time_base)
        if not math.isfinite(base) or (stamps[-1] - stamps[0]) * base > limits.seconds:
            raise BrokenClipError(
                f"video of more than {limits.seconds:.0f} seconds, which is the limit: cut it"
            )
        self._last_duration = durations[stamps[-1]]
        return stamps, np.array(sorted(keys), np.int64)


def _broken(error: Exception) -> BrokenClipError:
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return BrokenClipError(f"broken video: {str(reason).splitlines()[0]}")
