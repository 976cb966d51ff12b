"""How many samples were broken, over all ranks and attempts, and when that is too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from florence.data.batch import BrokenSample
from florence.errors import DataError

DECIDE_AFTER = 10_000
"""Below this many samples a fraction of a percent cannot be told from bad luck."""


@dataclass(frozen=True)
class WorstShard:
    """The shard with most broken samples, and one of them."""

    count: int
    shard: str
    example: str


@dataclass
class BadSampleCounter:
    """Counts samples of all ranks; what a checkpoint keeps is ``seen`` and ``bad``.

    Args:
        uri: of the data set.
        max_fraction: the fraction of broken samples that is allowed.
        decide_after: samples before the fraction is judged; fewer where a stage has fewer.
    """

    uri: str
    max_fraction: float
    decide_after: int = DECIDE_AFTER
    seen: int = 0
    bad: int = 0
    _by_shard: Counter[str] = field(default_factory=Counter)
    _example: dict[str, str] = field(default_factory=dict)

    def note(self, broken: Iterable[BrokenSample]) -> None:
        """Remember where this rank's broken samples are."""
        for shard, key, reason in broken:
            self._by_shard[shard] += 1
            self._example.setdefault(shard, f"{key}: {reason}")

    def add(self, seen: int, bad: int) -> bool:
        """Count samples of all ranks; whether too many of all so far are broken."""
        self.seen += seen
        self.bad += bad
        return self.seen >= self.decide_after and self.bad > self.max_fraction * self.seen

    def worst(self) -> WorstShard | None:
        """This rank's worst shard."""
        if not self._by_shard:
            return None
        ((shard, count),) = self._by_shard.most_common(1)
        return WorstShard(count, shard, self._example[shard])

    def error(self, worst: Sequence[WorstShard | None]) -> DataError:
        """What stops the stage, given the worst shard of every rank; ranks may share one."""
        counts, examples = Counter[str](), dict[str, str]()
        for each in worst:
            if each is not None:
                counts[each.shard] += each.count
                examples.setdefault(each.shard, each.example)
        where = ""
        if counts:
            ((shard, count),) = counts.most_common(1)
            where = f"; worst is shard {shard} with {count} ({examples[shard]})"
        return DataError(
            f"{self.uri}: {self.bad} of {self.seen} samples are broken, more than "
            f"loader.maxBadFraction={self.max_fraction:g} allows{where}: "
            f"run 'florencectl data check {self.uri}'"
        )
