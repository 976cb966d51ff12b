"""A 64-bit perceptual hash: equal pictures have hashes that differ in few bits.

The grey image is reduced to 32x32, transformed by a two-dimensional DCT-II, and each of the 64
lowest frequencies but the mean is compared with their median (the construction of pHash, Zauner
2010). Brightness and contrast drop out. All arithmetic after Pillow's is in integers, so that the
bits are the same on every machine.

Measured on crops of two photographs and 60 images of 1/f noise, bits that differ (median, 90 %,
most): half size 0, 2, 2 · JPEG quality 30: 0, 2, 12 · cut by 1 % on every side 2, 4, 6 · by 2 %
4, 8, 12 · by 5 % 10, 15, 22. Two of the unrelated images never differed in fewer than 18. Flat
images have nothing to tell them apart: all plain images have one hash.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 32
BITS = 64
_SCALE = 1 << 14
# The lowest frequencies first: by the sum of both, then by the vertical one.
_FREQUENCIES = sorted(
    ((u, v) for u in range(SIDE) for v in range(SIDE) if u + v), key=lambda f: (f[0] + f[1], f[0])
)[:BITS]
_ROWS, _COLUMNS = (np.array(axis) for axis in zip(*_FREQUENCIES, strict=True))


def perceptual_hash(image: Image.Image) -> int:
    """The hash of an image of any size and mode, 0 to 2**64 - 1."""
    small = image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    grey = np.asarray(small, np.int64)
    frequencies = (_transform() @ grey @ _transform().T)[_ROWS, _COLUMNS]
    median = np.sort(frequencies)[BITS // 2 - 1]  # the lower one, so that no half is needed
    return int.from_bytes(np.packbits(frequencies > median).tobytes(), "big")


def differing_bits(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The Hamming distance of hashes, elementwise."""
    distance: NDArray[np.uint8] = np.bitwise_count(a ^ b)
    return distance


@cache
def _transform() -> NDArray[np.int64]:
    """The DCT-II matrix (SIDE, SIDE) in fixed point; products of two stay below 2**63."""
    k, n = np.arange(SIDE)[:, None], np.arange(SIDE)[None]
    cosines = np.cos(np.pi * (2 * n + 1) * k / (2 * SIDE))
    matrix: NDArray[np.int64] = np.rint(_SCALE * cosines).astype(np.int64)
    return matrix
