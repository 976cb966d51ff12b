"""Which sample stands at which position: a pure function of (seed, epoch, position).

Two levels keep the shuffle near-global and the reads sequential. The samples, in shard order, are
cut into blocks; an epoch permutes the blocks; a window of that sequence is then permuted sample by
sample. A window therefore touches a few hundred long runs of bytes, and any process can compute
any part of the order without having seen the rest: a resume is one integer.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from florence.data.hashing import mix, permutation

BLOCKS_PER_WINDOW = 128
_BLOCKS, _WINDOWS, _SPARES = 1, 2, 3  # keep the three uses of one seed apart


class Order:
    """The endless order of ``count`` samples, epoch after epoch.

    Args:
        count: samples in the data set, at least 1.
        seed: any integer.
        window: samples permuted together; at or above ``count`` the shuffle is fully global.
    """

    def __init__(self, count: int, seed: int, window: int) -> None:
        if count < 1 or window < 1:
            raise ValueError(f"an order needs samples and a window, got {count} and {window}")
        self.count = count
        self.seed = seed
        self.window = window
        self.block = max(1, window // BLOCKS_PER_WINDOW)
        self._block_order = lru_cache(maxsize=2)(self._make_block_order)
        self._window_order = lru_cache(maxsize=4)(self._make_window_order)

    def epoch(self, position: int) -> int:
        """The epoch that a global position lies in."""
        return position // self.count

    def samples(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sample at each global position in ``[start, stop)``; positions go on over epochs."""
        parts = []
        while start < stop:
            epoch, place = divmod(start, self.count)
            window, inside = divmod(place, self.window)
            order = self._window_order(epoch, window)
            taken = order[inside : inside + stop - start]
            parts.append(taken)
            start += len(taken)
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def spare(self, position: int, attempt: int) -> int:
        """The sample that replaces the one at a global position when that is broken."""
        epoch, place = divmod(position, self.count)
        return mix(self.seed, _SPARES, epoch, place, attempt) % self.count

    def _make_block_order(self, epoch: int) -> tuple[NDArray[np.int64], int]:
        """The permuted blocks, and where the one that is not full has come to stand."""
        blocks = -(-self.count // self.block)
        order = permutation(blocks, mix(self.seed, _BLOCKS, epoch))
        return order, int(np.flatnonzero(order == blocks - 1)[0])

    def _make_window_order(self, epoch: int, window: int) -> NDArray[np.int64]:
        blocks, short_at = self._block_order(epoch)
        missing = len(blocks) * self.block - self.count
        first = window * self.window
        place = np.arange(first, min(first + self.window, self.count), dtype=np.int64)
        # Behind the short block, every place is `missing` further in a sequence of full blocks.
        place += np.where(place >= (short_at + 1) * self.block - missing, missing, 0)
        samples = blocks[place // self.block] * self.block + place % self.block
        return samples[permutation(len(samples), mix(self.seed, _WINDOWS, epoch, window))]
