"""A bar for the stage at work, on a terminal."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text

from florence.config.progress import StageProgress
from florence_operator.api import Stage, StageStatus, State
from florencectl.run_display import RunDisplay, ending_line, numbers

_COLOURS = {State.SUCCEEDED: "green", State.SUSPENDED: "yellow"}


class BarDisplay(RunDisplay):
    """A bar that moves from the first second on; what has ended stays as a line above it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        plain = "NO_COLOR" in os.environ
        self._console = Console(file=stream, no_color=plain, highlight=False, soft_wrap=True)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[step]}"),
            TimeElapsedColumn(),
            # Alone in giving way to a narrow terminal.
            TextColumn(
                "{task.fields[numbers]}",
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self._console,
            transient=True,
            expand=True,
            refresh_per_second=8,
        )
        self._task: tuple[str, TaskID] | None = None

    def stage_started(self, stage: Stage, attempt: int, log: Path) -> None:
        """Say where the log is, and begin a bar that only shows that something goes on."""
        super().stage_started(stage, attempt, log)
        self._bar(stage.name)

    def progress(self, name: str, progress: StageProgress) -> None:
        """Move the stage's bar."""
        with self._writing, contextlib.suppress(OSError):
            task = self._bar(name)
            done, total = float(progress.step), float(progress.total)
            if progress.phase_fraction is not None:
                done, total = progress.phase_fraction, 1.0
            step = f"{progress.step}/{progress.total}" if progress.total else ""
            self._bars.update(
                task,
                description=f"{name}: {progress.phase}",
                completed=done,
                total=total or None,
                step=step,
                numbers="  ".join(numbers(progress)),
            )

    def stage_ended(self, stage: Stage, status: StageStatus, seconds: float) -> None:
        """Put a line in the place of the bar: green for done, yellow for stopped, else red."""
        line = ending_line(stage.name, status, seconds)
        colour = _COLOURS.get(status.state, "red")
        with self._writing, contextlib.suppress(OSError):
            if self._task is not None:
                self._bars.stop()
                self._bars.remove_task(self._task[1])
                self._task = None
            self._console.print(Text(line, style=colour))

    def say(self, line: str) -> None:
        """Write a line above the bar."""
        with self._writing, contextlib.suppress(OSError):
            self._console.print(Text(line))

    def _bar(self, name: str) -> TaskID:
        if self._task is None or self._task[0] != name:
            if self._task is not None:
                self._bars.remove_task(self._task[1])
            task = self._bars.add_task(f"{name}: starting", total=None, step="", numbers="")
            self._task = (name, task)
            self._bars.start()
        return self._task[1]
