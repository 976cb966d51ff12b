"""Video files as their frames: exact times, any frame, and limits on what is opened at all.

The interface is small so that a decoder is one module behind it. PyAV is the one there is: its
wheels bring FFmpeg along. Which decoder made the pixels is recorded with a model: decoders differ
in colours and, with variable frame rates, in frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from florence.data.images import MOST_PIXELS, BrokenImageError

Frame = NDArray[np.uint8]
"""RGB, upright: uint8 ``(height, width, 3)``."""


class BrokenClipError(BrokenImageError):
    """Bytes that are not a video of a kind and size that can be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipLimits:
    """What a video may have at most; beyond, it is refused before it is decoded.

    Attributes:
        seconds: of its duration. Times of frames are listed packet by packet, which for hours of
            video takes seconds.
        pixels: of a frame. 4K has 8.8 million, 8K 33 million.
        frames: in all.
    """

    seconds: float = 4 * 3600.0
    pixels: int = min(1 << 24, MOST_PIXELS)
    frames: int = 2_000_000


class ClipFile(Protocol):
    """An open video; a context manager that leaves no decoder behind.

    Attributes:
        times: float64, seconds since the first frame at which each frame is shown, rising.
        duration: seconds from the first frame to the end of the last.
    """

    times: NDArray[np.float64]
    duration: float

    def frames(self, numbers: Sequence[int]) -> list[Frame]:
        """Frames by number, in the order asked for; a number may come twice.

        Raises:
            BrokenClipError: one of them cannot be decoded.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
