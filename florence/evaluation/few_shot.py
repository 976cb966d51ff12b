"""Few-shot episodes of the CD-FSL benchmark: which images they are made of, and their statistics.

An episode is N classes with K labelled images each to learn from (the support) and Q others of each
to be judged by (the query). Episode e is a function of (labels, settings, seed, e) and of nothing
else, so any process may draw any episode.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from florence.errors import DataError


@dataclass(frozen=True)
class Episode:
    """One episode: rows of the data set by class, in the order of the episode's labels."""

    classes: NDArray[np.int64]
    """``(N,)``, the data set's class of each of the episode's labels 0 … N - 1."""
    support: NDArray[np.int64]
    """``(N, K)`` rows."""
    query: NDArray[np.int64]
    """``(N, Q)`` rows."""


@dataclass(frozen=True)
class FewShotResult:
    """Accuracies of episodes, fractions of 1."""

    mean: float
    interval: float
    """Half the width of the 95 % confidence interval, 1.96·σ/√n."""
    accuracies: tuple[float, ...]


def draw_episode(
    labels: NDArray[np.int64],
    number: int,
    *,
    ways: int = 5,
    shots: int = 5,
    queries: int = 15,
    seed: int = 0,
) -> Episode:
    """Episode ``number`` of a data set.

    Args:
        labels: ``(M,)`` the class of every image.
        number: which episode, from 0.
        ways: N, classes an episode.
        shots: K, support images a class.
        queries: Q, query images a class.
        seed: another seed, other episodes.

    Raises:
        DataError: fewer than ``ways`` classes have ``shots + queries`` images.
    """
    counts = np.bincount(labels)
    usable = np.flatnonzero(counts >= shots + queries)
    if len(usable) < ways:
        raise DataError(
            f"few-shot: {len(usable)} classes have the {shots + queries} images that {shots} shots "
            f"and {queries} queries need, but an episode takes {ways}: ask for less, or give more "
            "images"
        )
    generator = np.random.default_rng(_seed(seed, number))
    classes = generator.choice(usable, ways, replace=False)
    chosen = np.stack(
        [
            generator.choice(np.flatnonzero(labels == label), shots + queries, replace=False)
            for label in classes
        ]
    )
    return Episode(classes.astype(np.int64), chosen[:, :shots], chosen[:, shots:])


def share_of_episodes(episodes: int, rank: int, size: int) -> range:
    """The episodes of one of ``size`` processes; together they are all, each once."""
    return range(rank, episodes, size)


def episode_seed(seed: int, number: int) -> int:
    """The seed of an episode's training, in ``[0, 2**63)``, apart from that of its draw."""
    return _seed(seed, number, "train")


def few_shot_result(accuracies: Sequence[float]) -> FewShotResult:
    """Mean and 95 % interval of episodes' accuracies, which are fractions of 1.

    σ is the population's, as in the benchmark's own code. Raises :class:`DataError` for none.
    """
    if not accuracies:
        raise DataError("few-shot: there are no episodes: ask for at least one")
    values = np.asarray(accuracies, np.float64)
    interval = 1.96 * float(values.std()) / math.sqrt(len(values))
    return FewShotResult(float(values.mean()), interval, tuple(float(v) for v in values))


def _seed(seed: int, number: int, use: str = "draw") -> int:
    digest = hashlib.blake2b(f"few-shot/{use}/{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
