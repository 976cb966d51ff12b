"""Randomness without state: a good 64-bit mixer, in Python integers and in numpy arrays.

Library generators may change their streams between versions; a data order that must be the same
after an upgrade may not. The mixer is SplitMix64's finaliser (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB


def _finalise(x: int) -> int:
    x = ((x ^ (x >> 30)) * _FIRST) & _MASK
    x = ((x ^ (x >> 27)) * _SECOND) & _MASK
    return x ^ (x >> 31)


def mix(*values: int) -> int:
    """One unsigned 64-bit hash of a sequence of integers; their order matters."""
    state = 0
    for value in values:
        state = _finalise((state + _GOLDEN + (value & _MASK)) & _MASK)
    return state


def uniforms(key: int) -> Iterator[float]:
    """An endless stream of numbers in [0, 1) that is a pure function of ``key``."""
    counter = key & _MASK
    while True:
        counter = (counter + _GOLDEN) & _MASK
        yield (_finalise(counter) >> 11) * 2.0**-53


def permutation(size: int, key: int) -> NDArray[np.int64]:
    """The numbers 0 … size-1 in an order that is a pure function of ``key``: a sort by hash."""
    with np.errstate(over="ignore"):
        x = np.arange(1, size + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key & _MASK)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
        x ^= x >> np.uint64(31)
    return np.argsort(x, kind="stable").astype(np.int64)
