"""Tensors that are functions of a few sizes, kept within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from threading import Lock
from typing import TypeVar, cast

from torch import Tensor

T = TypeVar("T")


class TensorCache:
    """Keeps what was used last; whatever is too much for ``limit`` bytes goes, oldest use first.

    Values are tensors or dataclasses of tensors, and are counted together on all devices. One that
    is larger than the limit alone is never kept. Threads may share a cache; two that miss at once
    may both build.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        """Bytes of all that is kept."""
        self._values: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, build: Callable[[], T]) -> T:
        """The value kept under ``key``, or the one that ``build`` makes now."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return cast(T, self._values[key])
        value = build()
        with self._lock:
            if key not in self._values and size_of(value) <= self.limit:
                self._values[key] = value
                self.held += size_of(value)
                while self.held > self.limit:
                    _, oldest = self._values.popitem(last=False)
                    self.held -= size_of(oldest)
        return value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()
            self.held = 0


def size_of(value: object) -> int:
    """Bytes of a tensor, or of the tensors that are a dataclass's fields."""
    if isinstance(value, Tensor):
        return value.nbytes
    if is_dataclass(value):
        return sum(size_of(getattr(value, field.name)) for field in fields(value))
    return 0
