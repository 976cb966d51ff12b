"""Which faults a soak brings about, and when: a pure function of its seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

HOLD_SECONDS = {"api-server": 20.0, "etcd": 10.0, "dns": 15.0, "storage": 30.0, "node": 60.0}
"""How long what is stopped or away stays so."""
WEIGHTS = {
    "pod": 6,
    "process": 4,
    "operator": 3,
    "leader": 2,
    "node": 2,
    "api-server": 2,
    "etcd": 2,
    "dns": 2,
    "storage": 2,
}
"""How often each fault comes, beside the others."""
OF_THE_MACHINE = ("node", "api-server", "etcd", "dns", "storage")
"""Faults that need a program on the machine where the cluster's processes are."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Seconds after the soak's start."""
    kind: str
    hold: float
    """Seconds that it lasts; 0 for what happens at once."""
    choice: float
    """From 0 up to 1: which of those that are there it hits."""
    how: str = ""
    """Of a node: killed or cut off."""


def plan(seed: int, seconds: float, kinds: Sequence[str], pause: float = 45.0) -> list[Fault]:
    """The faults of a soak, in their order; one is over before the next begins.

    Args:
        kinds: those that can be brought about here.
        pause: mean seconds between the end of one and the next.
    """
    return list(_faults(random.Random(seed), seconds, sorted(kinds), pause))


def _faults(
    source: random.Random, seconds: float, kinds: Sequence[str], pause: float
) -> Iterator[Fault]:
    now = source.uniform(0.5, 1.0) * pause
    while now < seconds:
        (kind,) = source.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        hold = HOLD_SECONDS.get(kind, 0.0)
        how = source.choice(("kill", "cut")) if kind == "node" else ""
        yield Fault(at=now, kind=kind, hold=hold, choice=source.random(), how=how)
        now += hold + source.uniform(0.5, 1.5) * pause
