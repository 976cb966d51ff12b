"""What a training step consumes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import torch


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        images: float32 ``(B, 3, R, R)``, normalised.
        ids: int64 ``(B, L)`` token ids; L is the longest text's length, rounded up.
        labels: int64 ``(B,)``; equal labels are positives of each other.
        keys: the samples, as ``shard/key``.
        bad: how many of the samples stand in for a broken one.
        position: the first sample's global position, counted over epochs.
    """

    images: torch.Tensor
    ids: torch.Tensor
    labels: torch.Tensor
    keys: tuple[str, ...]
    bad: int = 0
    position: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def chunk(self, n: int) -> list[Batch]:
        """The batch in ``min(n, len)`` parts whose sizes differ by at most one.

        ``bad`` is counted in the first part only, so that the parts' sum is the batch's.
        """
        n = min(n, len(self))
        bounds = [len(self) * i // n for i in range(n + 1)]
        return [
            Batch(
                self.images[a:b],
                self.ids[a:b],
                self.labels[a:b],
                self.keys[a:b],
                self.bad if a == 0 else 0,
                self.position + a,
            )
            for a, b in pairwise(bounds)
        ]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on a device."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            ids=self.ids.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )
