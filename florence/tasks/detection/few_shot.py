"""Few-shot detection: which images are trained on, when the rate falls, and what seeds give.

The protocol is GLIP's (arXiv 2112.03857, 5.3), which the paper's table of eleven data sets uses:
images until every class has k boxes, three seeds, the rate falls on a plateau, training stops
early, the mean over the seeds counts.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from florence.data.boxes import annotated_image
from florence.data.hashing import mix, permutation
from florence.data.shards import ShardSet
from florence.data.subset import ShardSubset
from florence.errors import DataError

SEEDS = (3, 30, 300)
COPIES: Mapping[int, int] = {1: 8, 3: 4, 5: 2, 10: 1}
"""How many times the protocol repeats its few images in an epoch, by shots."""
EPOCHS = 200
_SHOTS = 0x5407


def choose_images(
    images: Sequence[Sequence[str]], classes: Sequence[str], shots: int, seed: int
) -> list[int]:
    """Images so that every class has at least so many boxes among them.

    They are looked at in a random order, and one is taken when it has a box of a class that still
    lacks some. An image brings all its boxes, so that frequent classes get more than ``shots``.

    Args:
        images: for each, the class of every box that counts (no crowds).
        classes: those that must have boxes.
        shots: least boxes of a class.
        seed: decides the order.

    Returns:
        Their numbers, in the order in which they were taken.

    Raises:
        DataError: a class has fewer boxes in all images together; names it.
    """
    found = Counter(name for names in images for name in names)
    for name in classes:
        if found[name] < shots:
            raise DataError(
                f"class '{name}' has {found[name]} boxes, fewer than {shots} shots: choose fewer "
                "shots, or leave the class out"
            )
    lacking = dict.fromkeys(classes, shots)
    chosen = []
    for number in permutation(len(images), mix(_SHOTS, seed)).tolist():
        names = [name for name in images[number] if name in lacking]
        if not names:
            continue
        chosen.append(number)
        for name in names:
            if name in lacking:
                lacking[name] -= 1
                if lacking[name] <= 0:
                    del lacking[name]
        if not lacking:
            break
    return chosen


def few_images(shards: ShardSet, classes: Sequence[str], shots: int, seed: int) -> ShardSubset:
    """The part of a training set that :func:`choose_images` takes; reads all records.

    Raises:
        DataError: a class has too few boxes, or a sample has no record; names it.
    """
    images = []
    for i in range(len(shards)):
        try:
            record = annotated_image(shards.read_meta(i))
        except ValueError as error:
            raise DataError(f"{shards.shard_of(i)}: sample {shards.key(i)}: {error}") from error
        images.append([box.category for box in record.boxes if not box.crowd])
    try:
        return ShardSubset(shards, choose_images(images, classes, shots, seed))
    except DataError as error:
        raise DataError(f"{shards.uri}: {error}") from error


@dataclass
class Plateau:
    """Lowers the rate when a measure does not rise any more, and ends the training later.

    Args:
        patience: measurements without a better one after which the rate falls.
        stop_patience: measurements without a better one after which training ends.
        factor: what the rate is multiplied by.
        least_gain: by how much a measure must be better to count.
    """

    patience: int = 3
    stop_patience: int = 8
    factor: float = 0.1
    least_gain: float = 0.0
    scale: float = field(default=1.0, init=False)
    """What the first rate is multiplied by now."""
    best: float = field(default=-math.inf, init=False)
    best_at: int = field(default=-1, init=False)
    """The number of the best measurement, whose model is the result."""
    ended: bool = field(default=False, init=False)
    _count: int = field(default=0, init=False)
    _waited: int = field(default=0, init=False)

    def measured(self, value: float) -> None:
        """Take a measurement into account; NaN is never better."""
        if value > self.best + self.least_gain:
            self.best, self.best_at, self._waited = value, self._count, 0
        else:
            self._waited += 1
        self._count += 1
        waiting = self._count - 1 - self.best_at
        if self._waited > self.patience:
            self.scale *= self.factor
            self._waited = 0
        self.ended = self.ended or waiting >= self.stop_patience


@dataclass(frozen=True)
class Spread:
    """What several seeds gave.

    Attributes:
        values: one for each seed.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Of the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Sample standard deviation; 0 for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> float:
        """Half of the 95 % interval of the mean, as few-shot classification reports it."""
        return 1.96 * self.deviation / math.sqrt(len(self.values))

    def metrics(self, name: str) -> dict[str, float]:
        """For the results table."""
        return {name: self.mean, f"{name}/deviation": self.deviation}
