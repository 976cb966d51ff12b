"""What a stage's time went into, and which part of it the newest commit holds."""

from __future__ import annotations

from collections.abc import Callable

from florence.config.progress import PhaseSeconds

_COUNTED = {
    "train": "train",
    "checkpoint": "checkpoint",
    "evaluate": "evaluate",
    "export": "evaluate",
}
"""The phases that are counted, by what they count as; all others are a start."""


class PhaseClock:
    """Adds up the seconds of one process by phase, from the moment it is made.

    Args:
        clock: seconds; only differences matter, and one that is set back costs what it was.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = self._since = clock()
        self._phase = "start"
        self._seconds = dict.fromkeys(("train", "data_wait", "checkpoint", "evaluate"), 0.0)
        self._saved: dict[int, float] = {}
        """Seconds of training when each save that is not committed yet was begun, by step."""
        self._kept = 0.0

    def enter(self, phase: str) -> None:
        """What follows is of another phase."""
        self._charge()
        self._phase = phase

    def waited(self, seconds: float) -> None:
        """Of the training just now, so many seconds were spent waiting for data."""
        self._charge()
        part = min(max(0.0, seconds), self._seconds["train"])
        self._seconds["train"] -= part
        self._seconds["data_wait"] += part

    def saving(self, step: int) -> None:
        """What was done until now is saved as ``step``; it is kept once that is committed."""
        self._charge()
        self._saved[step] = self._seconds["train"]

    def committed(self, step: int) -> None:
        """The save of a step was committed: an attempt that follows goes on from it."""
        self._kept = max(self._kept, self._saved.get(step, 0.0))
        self._saved = {one: seconds for one, seconds in self._saved.items() if one > step}

    def read(self) -> PhaseSeconds:
        """The seconds until now."""
        self._charge()
        return PhaseSeconds(**self._seconds, kept=self._kept)

    @property
    def goodput(self) -> float:
        """Training and evaluation as a part of all the time since it was made; 0 at first."""
        self._charge()
        whole = self._since - self._begun
        useful = self._seconds["train"] + self._seconds["evaluate"]
        return min(1.0, useful / whole) if whole > 0 else 0.0

    def _charge(self) -> None:
        now = self._clock()
        counted = _COUNTED.get(self._phase)
        if counted is not None:
            self._seconds[counted] += max(0.0, now - self._since)
        self._since = now
