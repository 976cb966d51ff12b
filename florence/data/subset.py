"""Some samples of a set of shards as a set of their own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.data.shards import Place, Sample, ShardSet


class ShardSubset(ShardSet):
    """The samples ``indices`` of a set, in that order.

    Args:
        whole: the set.
        indices: of its samples; one that comes twice is two samples of the subset.
    """

    def __init__(self, whole: ShardSet, indices: Sequence[int]) -> None:
        self.__dict__.update(whole.__dict__)
        self._whole = whole
        self._indices = np.asarray(indices, np.int64)

    @property
    def indices(self) -> list[int]:
        """The samples of the whole set."""
        found: list[int] = self._indices.tolist()
        return found

    def __len__(self) -> int:
        return len(self._indices)

    def __getstate__(self) -> dict[str, Any]:
        return {"_whole": self._whole, "_indices": self._indices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_whole"], state["_indices"])  # type: ignore[misc]

    @property
    def fingerprint(self) -> str:
        """A digest of which samples are in the subset and in which order."""
        digest = hashlib.blake2b(self._whole.fingerprint.encode(), digest_size=16)
        digest.update(self._indices.tobytes())
        return digest.hexdigest()

    def shard_of(self, i: int) -> str:
        """The shard that sample ``i`` is in, as people know it."""
        return self._whole.shard_of(self._at(i))

    def place(self, i: int) -> Place:
        """Where the bytes of sample ``i`` are."""
        return self._whole.place(self._at(i))

    def parse(self, i: int, run: bytes) -> Sample:
        """Sample ``i`` from the bytes at its place."""
        return self._whole.parse(self._at(i), run)

    def read_meta(self, i: int) -> dict[str, Any]:
        """The JSON member of sample ``i`` alone."""
        return self._whole.read_meta(self._at(i))

    def key(self, i: int) -> str:
        """The key of sample ``i``."""
        return self._whole.key(self._at(i))

    def class_indices(self) -> NDArray[np.int64]:
        """The class of every sample, -1 where there is none."""
        return self._whole.class_indices()[self._indices]

    def _at(self, i: int) -> int:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        return int(self._indices[i])
