"""A worker's memory for the bulk of a batch: arrays are laid out once and never copied again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNMENT = 64


@dataclass(frozen=True)
class Block:
    """Where an array lies in an arena."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


Stored = Block | NDArray[Any]
"""An array in the arena, or the array itself where the arena had no room: it is pickled then."""


@dataclass
class Arena:
    """Lays arrays end to end into shared memory, in the worker, and finds them again outside."""

    memory: NDArray[np.uint8]
    used: int = field(default=0)

    def empty(self, shape: Sequence[int], dtype: Any) -> tuple[NDArray[Any], Stored]:
        """An uninitialised array to fill, and what to hand over for it."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        start = -(-self.used // _ALIGNMENT) * _ALIGNMENT
        if start + size > len(self.memory):
            array = np.empty(shape, kind)
            return array, array
        self.used = start + size
        block = Block(start, tuple(shape), kind.str)
        return self.array(block), block

    def put(self, array: NDArray[Any]) -> Stored:
        """Copy an array into the arena."""
        target, stored = self.empty(array.shape, array.dtype)
        target[...] = array
        return stored

    def stack(self, arrays: Sequence[NDArray[Any]]) -> Stored:
        """Copy arrays of one shape into the arena, as rows of one."""
        first = arrays[0]
        target, stored = self.empty((len(arrays), *first.shape), first.dtype)
        for row, array in enumerate(arrays):
            target[row] = array
        return stored

    def array(self, stored: Stored) -> NDArray[Any]:
        """The array that was handed over; a view where it lies in the arena."""
        if not isinstance(stored, Block):
            return stored
        size = math.prod(stored.shape) * np.dtype(stored.dtype).itemsize
        run = self.memory[stored.offset : stored.offset + size]
        return run.view(stored.dtype).reshape(stored.shape)


def room_for(*sizes: int) -> int:
    """Bytes of an arena that holds arrays of these sizes."""
    return sum(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)
