"""Videos that are written: a function of their frames."""

from __future__ import annotations

import numpy as np

from florence.data.digit_clips import action_clip, clip_file
from florence.data.digits import scanned_digits


def test_the_same_frames_give_the_same_bytes_whatever_memory_held_before() -> None:
    """With x264's macroblock tree one file of fifteen depended on that."""
    random = np.random.default_rng(0)
    scans, classes = scanned_digits()
    for number in range(40):
        clip, files = action_clip("train", number, classes), set()
        for _ in range(4):
            litter = [random.bytes(int(size)) for size in random.integers(1, 200_000, 40)]
            del litter[::2]
            files.add(clip_file(clip, scans))
        assert len(files) == 1, number
