"""Which display shows a run: what was asked for, or what the terminal can."""

from __future__ import annotations

import sys
from typing import TextIO

from florencectl.output import ProgressStyle, progress_style
from florencectl.run_display import JsonDisplay, RunDisplay


def run_display(stream: TextIO | None = None, style: ProgressStyle | None = None) -> RunDisplay:
    """What shows a run, in the style that was asked for; ``auto`` is bars on a terminal."""
    shown_on, style = stream or sys.stderr, style or progress_style()
    if style is ProgressStyle.JSON:
        return JsonDisplay(shown_on)
    if style is ProgressStyle.BAR or (style is ProgressStyle.AUTO and shown_on.isatty()):
        from florencectl.progress_bars import BarDisplay

        return BarDisplay(shown_on)
    return RunDisplay(shown_on)
