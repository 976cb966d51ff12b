"""What a soak did and what came of it, as text for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.chaos.plan import Fault


@dataclass(slots=True)
class Report:
    """Filled while the soak goes on."""

    seed: int
    seconds: float
    faults: list[tuple[Fault, str]] = field(default_factory=list)
    jobs: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """By name: phase, attempts, goodput, and whether the weights are the undisturbed job's."""
    problems: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report."""
        counted = Counter(fault.kind for fault, _ in self.faults)
        lines = [
            f"seed {self.seed}, {self.seconds:.0f} s, {len(self.faults)} faults: "
            + ", ".join(f"{count} {kind}" for kind, count in sorted(counted.items())),
            "",
            *(f"{fault.at:7.0f} s  {fault.kind:<11} {what}" for fault, what in self.faults),
            "",
            *(_line(name, job) for name, job in sorted(self.jobs.items())),
            "",
            *(self.problems or ["every job ended with the undisturbed one's weights"]),
        ]
        return "\n".join(lines) + "\n"


def _line(name: str, job: Mapping[str, Any]) -> str:
    causes: Sequence[str] = job.get("causes", ())
    counted = ", ".join(f"{n} {cause}" for cause, n in sorted(Counter(causes).items()))
    same = "same weights" if job.get("same") else "OTHER WEIGHTS"
    return (
        f"{name:<14} {job.get('phase', '?'):<10} {job.get('attempts', 0)} attempts "
        f"({counted or 'none failed'}), goodput {job.get('goodput') or '-'}, {same}"
    )
