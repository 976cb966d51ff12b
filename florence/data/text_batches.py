"""Coded texts of a batch as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LENGTH_MULTIPLE = 8
"""Columns behind a batch's longest text are cut; whole multiples keep the shapes few."""


def padded(
    rows: Sequence[Sequence[int]], padding: int, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Token ids (B, L) with padding behind each text, and the texts' lengths (B,), both int64.

    Args:
        rows: the ids of each text, at least one and at most ``most``.
        padding: what stands behind them.
        most: no text is longer; L is at most this.
    """
    lengths = np.array([len(row) for row in rows], np.int64)
    width = min(most, -(-int(lengths.max()) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
    ids = np.full((len(rows), width), padding, np.int64)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = row
    return ids, lengths
