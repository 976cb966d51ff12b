"""The rank of the right answer among candidates; a tie counts against the model."""

from __future__ import annotations

import torch
from torch import Tensor

SCORES_PER_BLOCK = 1 << 23
"""Similarities held at once (32 MiB of fp32): 25,000 captions by 5,000 images are 15 blocks."""

NEVER = torch.iinfo(torch.int64).max


def pessimistic_ranks(scores: Tensor, own: Tensor, rivals: Tensor) -> Tensor:
    """How many rivals score at least as high as a row's own candidate.

    Counting ties against the model keeps a collapsed one, whose scores are all equal, from looking
    perfect. Scores that are not numbers are never "less", so they also count against it.

    Args:
        scores: ``(n, m)`` similarities, any range.
        own: ``(n,)`` the score of each row's right candidate.
        rivals: ``(n, m)`` bool, which columns compete with it.

    Returns:
        ``(n,)`` int64 ranks from 0 (best). A row whose own score is not a number is never a hit.
    """
    beaten = scores < own[:, None]
    ranks = (rivals & ~beaten).sum(dim=1)
    return torch.where(own.isnan(), NEVER, ranks)


def rows_per_block(columns: int, budget: int = SCORES_PER_BLOCK) -> int:
    """How many rows of a score matrix with that many columns fit into a budget; at least one."""
    return max(1, budget // max(1, columns))


def hit_rate(ranks: Tensor, k: int) -> float:
    """The fraction of ranks below ``k``; 0 for no ranks at all."""
    return float((ranks < k).double().mean()) if len(ranks) else 0.0
