"""How a run is shown while it goes on: bars on a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from florence.config.progress import StageProgress
from florence_operator.api import Stage, StageStatus, State

_SECONDS_BETWEEN_PLAIN_LINES = 10.0


class RunDisplay:
    """Plain lines on stderr; stdout stays free for data.

    A line comes with a new phase, or ten seconds after the last.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._last_plain = float("-inf")
        self._phase: tuple[str, str] | None = None
        self._writing = threading.Lock()

    def stage_started(self, stage: Stage, attempt: int, log: Path) -> None:
        """Say which stage starts, and where its log is."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        self.say(f"{stage.name}: starting {stage.kind.name}{again} (log: {log})")

    def stage_progress(self, stage: Stage, progress: StageProgress) -> None:
        """Show how far a stage is."""
        self.progress(stage.name, progress)

    def progress(self, name: str, progress: StageProgress) -> None:
        """Show how far the stage of that name is."""
        phase = (name, progress.phase)
        if phase != self._phase or self._clock() - self._last_plain >= _SECONDS_BETWEEN_PLAIN_LINES:
            self._phase, self._last_plain = phase, self._clock()
            self.say(progress_line(name, progress))

    def stage_ended(self, stage: Stage, status: StageStatus, seconds: float) -> None:
        """Say how the stage ended."""
        self.say(ending_line(stage.name, status, seconds))

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        self.say(message)

    def say(self, line: str) -> None:
        """Write a line."""
        # A terminal that was closed meanwhile takes nothing; the run ends well all the same.
        with self._writing, contextlib.suppress(OSError):
            self._stream.write(line + "\n")
            self._stream.flush()


class JsonDisplay(RunDisplay):
    """A JSON document a line on stderr, for programs: whatever happens, with its stage."""

    def stage_started(self, stage: Stage, attempt: int, log: Path) -> None:
        """``{"event": "started", "stage", "kind", "attempt", "log"}``."""
        about = {"kind": stage.kind.name, "attempt": attempt, "log": str(log)}
        self._tell("started", stage=stage.name, **about)

    def progress(self, name: str, progress: StageProgress) -> None:
        """``{"event": "progress", "stage", …}`` with the fields of ``StageProgress``."""
        self._tell("progress", stage=name, **progress.wire(defaults=False))

    def stage_ended(self, stage: Stage, status: StageStatus, seconds: float) -> None:
        """``{"event": "ended", "stage", "state", "seconds", "metrics", "model", "message"}``."""
        last = status.attempts[-1] if status.attempts else None
        self._tell(
            "ended",
            stage=stage.name,
            state=status.state.value,
            seconds=round(seconds, 3),
            metrics=status.metrics,
            model=status.model,
            message=last.message if last else None,
        )

    def note(self, message: str) -> None:
        """``{"event": "note", "message"}``."""
        self._tell("note", message=message)

    def _tell(self, event: str, **about: object) -> None:
        self.say(json.dumps({"event": event, **about}))


def ending_line(name: str, status: StageStatus, seconds: float) -> str:
    """How a stage ended: after how long, with which loss, at what rate, or why."""
    took = duration(seconds)
    if status.state is State.SUCCEEDED:
        return "  ".join([f"{name}: succeeded in {took}", *_summary(status.progress)])
    if status.state is State.SUSPENDED:
        return f"{name}: stopped after {took}{_kept(status)}"
    last = status.attempts[-1]
    return f"{name}: failed after {took}: {last.message} (exit code {last.exit_code})"


def _summary(progress: StageProgress | None) -> list[str]:
    if progress is None:
        return []
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    if progress.best_value is not None and progress.best_metric is not None:
        best = shown(progress.best_metric, progress.best_value)
        parts.append(f"best {progress.best_metric} {best} at step {progress.best_step}")
    return parts


def _kept(status: StageStatus) -> str:
    """What a stage that was stopped leaves, and what follows."""
    step = status.progress.checkpoint_step if status.progress else None
    last = status.attempts[-1] if status.attempts else None
    failed = f" ({last.message})" if last and last.exit_code not in (0, 143) else ""
    if step:
        return f" at step {step}{failed}; the same command continues it"
    return f"{failed}; nothing is kept of it, the same command starts it again"


def progress_line(name: str, progress: StageProgress) -> str:
    """``mixed: train  120/600 (20 %)  loss 1.234  410 samples/s  2m10s left``."""
    parts = [f"{name}: {progress.phase}"]
    if progress.total:
        percent = 100 * progress.step // progress.total
        parts.append(f"{progress.step:>{len(str(progress.total))}}/{progress.total} ({percent} %)")
    return "  ".join([*parts, *numbers(progress)])


def numbers(progress: StageProgress) -> list[str]:
    """What is worth telling beside the step, the most wanted first: a narrow terminal cuts it."""
    parts = []
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    if progress.eta_seconds is not None and progress.step < progress.total:
        parts.append(f"{duration(progress.eta_seconds)} left")
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch:.1f}")
    if progress.data_wait is not None and progress.data_wait >= 0.005:
        parts.append(f"{100 * progress.data_wait:.0f} % data wait")
    if progress.memory_bytes:
        parts.append(f"{progress.memory_bytes / 2**30:.1f} GiB")
    return parts


def duration(seconds: float) -> str:
    """``42s``, ``3m05s``, ``2h10m`` or ``9d4h``: two units at most."""
    whole = round(max(0.0, seconds))
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h}h"
    if hours:
        return f"{hours}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


_FRACTIONS = ("top1", "top5", "meanPerClass", "mAP", "R@", "accuracy", "shot", "baseline")
"""In the names of results that are fractions of 1."""


def shown(result: str, value: float) -> str:
    """Fractions as percentages, everything else with four digits."""
    fraction = any(word in result for word in _FRACTIONS)
    return f"{100 * value:.2f} %" if fraction else f"{value:.4g}"
