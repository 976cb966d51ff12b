from __future__ import annotations

import io

import pytest

from florence.config.progress import StageProgress
from florence_operator.api import Stage, StageStatus, State
from florence_operator.api.status import Attempt
from florencectl.run_display import RunDisplay, duration, progress_line

STAGE = Stage.model_validate(
    {"name": "mixed", "pretrain": {"data": "d", "batchSize": 4, "steps": 600}}
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (59.6, "1m00s"),
        (61, "1m01s"),
        (7_260, "2h01m"),
        (864_000 + 3_600, "10d1h"),
        (-3, "0s"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_tells_step_loss_rate_and_time_left() -> None:
    progress = StageProgress(
        phase="train", step=120, total=600, loss=1.25, samples_per_second=410.4, eta_seconds=130
    )
    assert (
        progress_line("mixed", progress)
        == "mixed: train  120/600 (20 %)  loss 1.2500  410 samples/s  2m10s left"
    )


def test_a_terminal_shows_one_line_that_is_rewritten() -> None:
    screen = Terminal()
    display = RunDisplay(screen)
    for step in (1, 2, 3):
        display.stage_progress(STAGE, StageProgress(step=step, total=600))
    display.note("done")
    assert screen.getvalue().count("\r\x1b[K") == 2
    assert screen.getvalue().count("\n") == 2


def test_without_a_terminal_lines_come_at_most_every_ten_seconds_or_with_a_new_phase() -> None:
    now = 0.0
    out = io.StringIO()
    display = RunDisplay(out, clock=lambda: now)
    for tick in range(25):
        now = float(tick)
        display.stage_progress(STAGE, StageProgress(step=tick, total=600))
    display.stage_progress(STAGE, StageProgress(phase="checkpoint", step=25, total=600))
    lines = out.getvalue().splitlines()
    assert [line.split()[2] for line in lines] == ["0/600", "10/600", "20/600", "25/600"]
    assert "\r" not in out.getvalue()


@pytest.mark.parametrize(
    ("progress", "attempt", "text"),
    [
        (StageProgress(checkpoint_step=30), {"exit_code": 143}, "at step 30; the same command"),
        (None, {"exit_code": 143}, "nothing is kept of it, the same command starts it again"),
        (
            StageProgress(checkpoint_step=30),
            {"exit_code": 2, "message": "/runs is full"},
            "at step 30 (/runs is full); the same command continues it",
        ),
    ],
)
def test_a_stage_that_was_stopped_says_what_is_kept(
    progress: StageProgress | None, attempt: dict[str, object], text: str
) -> None:
    out = io.StringIO()
    status = StageStatus(
        name="mixed",
        state=State.SUSPENDED,
        progress=progress,
        attempts=(Attempt.model_validate({"number": 1, **attempt}, by_name=True),),
    )
    RunDisplay(out).stage_ended(STAGE, status, 12.0)
    assert out.getvalue().startswith("mixed: stopped after 12s")
    assert text in out.getvalue()


class ClosedTerminal(Terminal):
    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")


def test_a_terminal_that_was_closed_disturbs_nobody() -> None:
    display = RunDisplay(ClosedTerminal())
    display.note("stopping")
    display.stage_progress(STAGE, StageProgress(step=1, total=600))
