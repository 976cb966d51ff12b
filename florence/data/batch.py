"""What a training step consumes, whatever the samples are made of."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor


class BrokenSample(NamedTuple):
    """A sample that could not be used and was replaced."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's share of a global batch; kinds of samples add fields of one entry per sample.

    Added fields are tensors whose first dimension is the samples, or tuples of one entry each,
    which may be tensors of different sizes.

    Attributes:
        keys: the samples, as ``shard/key``.
        broken: the samples that others stand in for.
    """

    keys: tuple[str, ...]
    broken: tuple[BrokenSample, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def chunk(self, n: int) -> list[Self]:
        """The batch in ``min(n, len)`` parts whose sizes differ by at most one.

        ``broken`` is in the first part only, so that the parts' are the batch's.
        """
        n = min(n, len(self))
        bounds = [len(self) * i // n for i in range(n + 1)]
        rows = [field.name for field in fields(self) if field.name != "broken"]
        return [
            replace(
                self,
                broken=self.broken if start == 0 else (),
                **{name: getattr(self, name)[start:stop] for name in rows},
            )
            for start, stop in pairwise(bounds)
        ]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The batch with its tensors on a device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device, non_blocking=non_blocking)
            elif isinstance(value, tuple) and value and isinstance(value[0], Tensor):
                moved[field.name] = tuple(v.to(device, non_blocking=non_blocking) for v in value)
        return replace(self, **moved)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor where training needs it; to a GPU through page-locked memory, without waiting."""
    if device.type != "cuda":
        return tensor
    # A page-locked copy travels while the host goes on; the worker's buffer is soon reused.
    return tensor.pin_memory().to(device, non_blocking=True)
