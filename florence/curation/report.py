"""What curation dropped and why: counts, a few examples, and where the whole lists are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from florence.curation.decide import Decisions
from florence.curation.measure import Reason
from florence.curation.survivors import DROPPED, read_dropped
from florence.storage import Entry, Storage

RECORD = "curation.json"
_EXAMPLES = 3


@dataclass(frozen=True)
class Report:
    """The outcome of a curation.

    Attributes:
        uri: what was curated.
        samples, kept: counts.
        dropped: count by reason (:attr:`Reason.label`), in the order of the filters.
        examples: the first few of each reason: shard, key, row, detail.
        unreadable_evaluation_images: images of evaluation sets that could not be compared.
        settings: the filters, as JSON values.
    """

    uri: str
    samples: int
    kept: int
    dropped: Mapping[str, int]
    examples: Mapping[str, list[dict[str, Any]]]
    unreadable_evaluation_images: int
    settings: Mapping[str, Any]

    def wire(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "uri": self.uri,
            "samples": self.samples,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "unreadableEvaluationImages": self.unreadable_evaluation_images,
            "examples": dict(self.examples),
            "lists": DROPPED,
            "settings": dict(self.settings),
        }

    @staticmethod
    def from_wire(values: Mapping[str, Any]) -> Report:
        """From what :meth:`wire` gave."""
        return Report(
            uri=values["uri"],
            samples=values["samples"],
            kept=values["kept"],
            dropped=values["dropped"],
            examples=values["examples"],
            unreadable_evaluation_images=values["unreadableEvaluationImages"],
            settings=values["settings"],
        )


def make_report(
    uri: str,
    target: Storage,
    entries: list[Entry],
    decisions: Decisions,
    *,
    unreadable: int,
    settings: Mapping[str, Any],
) -> Report:
    """Count the decisions and look up the first examples in the lists that were written."""
    counts = np.bincount(decisions.reasons, minlength=len(Reason))
    chosen: dict[int, dict[int, str]] = {}
    for reason in Reason:
        if reason is Reason.KEPT or not counts[reason]:
            continue
        for number in _first(decisions, reason, _EXAMPLES):
            shard = int(np.searchsorted(decisions.starts, number, side="right")) - 1
            row = number - int(decisions.starts[shard])
            chosen.setdefault(shard, {})[row] = reason.label
    examples: dict[str, list[dict[str, Any]]] = {}
    for shard, rows in sorted(chosen.items()):
        for dropped in read_dropped(target, entries[shard].key):
            if dropped["row"] in rows:
                label = dropped.pop("reason")
                examples.setdefault(label, []).append({"shard": entries[shard].key, **dropped})
    return Report(
        uri=uri,
        samples=len(decisions.reasons),
        kept=int(counts[Reason.KEPT]),
        dropped={r.label: int(counts[r]) for r in Reason if r is not Reason.KEPT},
        examples=examples,
        unreadable_evaluation_images=unreadable,
        settings=settings,
    )


def _first(decisions: Decisions, reason: Reason, count: int) -> list[int]:
    """The numbers of the first samples that are dropped for a reason."""
    found: list[int] = []
    chunk = 1 << 20
    for start in range(0, len(decisions.reasons), chunk):
        hits = np.flatnonzero(decisions.reasons[start : start + chunk] == reason)
        found += (start + hits[: count - len(found)]).tolist()
        if len(found) == count:
            break
    return found
