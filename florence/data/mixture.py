"""Several data sets as one, each gone through as often as its weight says.

An epoch holds ``weight * len`` samples of each, all shuffled together. What an epoch leaves
out of a data set comes in the next one: over epochs every sample of a data set is seen equally
often. Which sample stands where stays a pure function of the seed and the position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from florence.data.hashing import mix
from florence.data.order import Order
from florence.data.shards import Place, Sample, ShardSet

_SPARES = 4


class Mixture:
    """Samples of several sets by one number; what a stream asks of a set.

    Args:
        parts: the sets.
        weights: how many passes an epoch makes over each.
    """

    def __init__(self, parts: Sequence[ShardSet], weights: Sequence[float]) -> None:
        self.parts = tuple(parts)
        self.shares = tuple(
            max(1, round(weight * len(part)))
            for part, weight in zip(self.parts, weights, strict=True)
        )
        self._starts = np.cumsum([0, *(len(part) for part in self.parts)])
        self._shards = np.cumsum([0, *(len(part.summaries) for part in self.parts)])

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(self.shares)

    @property
    def uri(self) -> str:
        """Of all of them."""
        return ", ".join(part.uri for part in self.parts)

    @property
    def size(self) -> int:
        """Bytes of all shards together."""
        return sum(part.size for part in self.parts)

    @property
    def fingerprint(self) -> str:
        """A digest of which samples there are, and how often."""
        digest = hashlib.blake2b(digest_size=16)
        for part, share in zip(self.parts, self.shares, strict=True):
            digest.update(f"{part.fingerprint} {share}\n".encode())
        return digest.hexdigest()

    def order(self, seed: int, window: int) -> MixedOrder:
        """The order in which samples are seen."""
        return MixedOrder([len(part) for part in self.parts], self.shares, seed, window)

    def place(self, i: int) -> Place:
        """Where the bytes of sample ``i`` are."""
        part, inside = self._part(i)
        place = self.parts[part].place(inside)
        return replace(place, shard=place.shard + int(self._shards[part]))

    def read_place(self, place: Place) -> bytes:
        """The bytes at a place."""
        part = int(np.searchsorted(self._shards, place.shard, side="right")) - 1
        own = replace(place, shard=place.shard - int(self._shards[part]))
        return self.parts[part].read_place(own)

    def parse(self, i: int, run: bytes) -> Sample:
        """Sample ``i`` from the bytes at its place; its key tells the sets apart."""
        part, inside = self._part(i)
        sample = self.parts[part].parse(inside, run)
        return replace(sample, key=f"{part}:{sample.key}")

    def _part(self, i: int) -> tuple[int, int]:
        part = int(np.searchsorted(self._starts, i, side="right")) - 1
        return part, i - int(self._starts[part])


class MixedOrder:
    """The endless order of a mixture; see :class:`florence.data.order.Order`.

    Args:
        counts: samples of each set.
        shares: how many of them an epoch holds.
        seed, window: those of :class:`Order`.
    """

    def __init__(
        self, counts: Sequence[int], shares: Sequence[int], seed: int, window: int
    ) -> None:
        self.seed = seed
        self._counts = np.array(counts, np.int64)
        self._shares = np.array(shares, np.int64)
        self._starts = np.concatenate([[0], np.cumsum(self._counts)])
        self._bounds = np.concatenate([[0], np.cumsum(self._shares)])
        self._order = Order(int(self._bounds[-1]), seed, window)

    def epoch(self, position: int) -> int:
        """The epoch that a global position lies in."""
        return self._order.epoch(position)

    def samples(self, start: int, stop: int) -> NDArray[np.int64]:
        """The sample at each global position in ``[start, stop)``."""
        places = self._order.samples(start, stop)
        epochs = np.arange(start, stop, dtype=np.int64) // self._order.count
        return self._sample(places, epochs)

    def spare(self, position: int, attempt: int) -> int:
        """The sample that replaces the one at a global position when that is broken."""
        total = int(self._starts[-1])
        return mix(self.seed, _SPARES, position, attempt) % total

    def _sample(self, places: NDArray[np.int64], epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        part = np.searchsorted(self._bounds, places, side="right") - 1
        passed = epochs * self._shares[part] + places - self._bounds[part]
        samples: NDArray[np.int64] = self._starts[part] + passed % self._counts[part]
        return samples
