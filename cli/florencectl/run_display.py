"""Show a local run: one line a stage, rewritten on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
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
    """Writes a run's progress to stderr; stdout stays free for data."""

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._terminal = self._stream.isatty()
        self._line_open = False
        self._last_plain = float("-inf")
        self._phase: tuple[str, str] | None = None
        self._writing = threading.Lock()

    def stage_started(self, stage: Stage, attempt: int, log: Path) -> None:
        """Say which stage starts, and where its log is."""
        again = f", attempt {attempt}" if attempt > 1 else ""
        self._write(f"{stage.name}: starting {stage.kind.name}{again} (log: {log})")

    def stage_progress(self, stage: Stage, progress: StageProgress) -> None:
        """Show how far a stage is."""
        self.progress(stage.name, progress)

    def progress(self, name: str, progress: StageProgress) -> None:
        """Rewrite a stage's line, or print one with a new phase or after ten seconds."""
        line = progress_line(name, progress)
        if self._terminal:
            self._write(line, keep_open=True)
            return
        phase = (name, progress.phase)
        if phase != self._phase or self._clock() - self._last_plain >= _SECONDS_BETWEEN_PLAIN_LINES:
            self._phase, self._last_plain = phase, self._clock()
            self._write(line)

    def stage_ended(self, stage: Stage, status: StageStatus, seconds: float) -> None:
        """Say how the stage ended."""
        took = duration(seconds)
        if status.state is State.SUCCEEDED:
            self._write(f"{stage.name}: succeeded in {took}")
        elif status.state is State.SUSPENDED:
            self._write(f"{stage.name}: stopped after {took}{_kept(status)}")
        else:
            last = status.attempts[-1]
            self._write(
                f"{stage.name}: failed after {took}: {last.message} (exit code {last.exit_code})"
            )

    def note(self, message: str) -> None:
        """Print a message on a line of its own."""
        self._write(message)

    def _write(self, line: str, *, keep_open: bool = False) -> None:
        # A terminal that was closed meanwhile takes nothing; the run ends well all the same.
        with self._writing, contextlib.suppress(OSError):
            if self._terminal and self._line_open:
                self._stream.write("\r\x1b[K" if keep_open else "\n")
            self._stream.write(line if keep_open else line + "\n")
            self._stream.flush()
            self._line_open = keep_open


def _kept(status: StageStatus) -> str:
    """What a stage that was stopped leaves, and what follows."""
    step = status.progress.checkpoint_step if status.progress else None
    last = status.attempts[-1] if status.attempts else None
    failed = f" ({last.message})" if last and last.exit_code not in (0, 143) else ""
    if step:
        return f" at step {step}{failed}; the same command continues it"
    return f"{failed}; nothing is kept of it, the same command starts it again"


def progress_line(name: str, progress: StageProgress) -> str:
    """``mixed: train  120/600 steps (20 %)  loss 1.234  410 samples/s  2m10s left``."""
    parts = [f"{name}: {progress.phase}"]
    if progress.total:
        percent = 100 * progress.step // progress.total
        parts.append(f"{progress.step:>{len(str(progress.total))}}/{progress.total} ({percent} %)")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    if progress.eta_seconds is not None and progress.step < progress.total:
        parts.append(f"{duration(progress.eta_seconds)} left")
    return "  ".join(parts)


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
