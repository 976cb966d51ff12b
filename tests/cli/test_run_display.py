from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florence.config.progress import StageProgress
from florence_operator.api import Stage, StageStatus, State
from florence_operator.api.status import Attempt
from florencectl.display_choice import run_display
from florencectl.main import app
from florencectl.output import ProgressStyle, progress_style
from florencectl.run_display import RunDisplay, duration, ending_line, progress_line

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
    display = run_display(ClosedTerminal())
    display.note("stopping")
    display.stage_progress(STAGE, StageProgress(step=1, total=600))


FULL = StageProgress(
    phase="train",
    step=120,
    total=600,
    loss=1.25,
    samples_per_second=410.4,
    data_wait=0.25,
    memory_bytes=3 << 29,
    epoch=2.5,
    eta_seconds=130,
    best_metric="held/top1",
    best_value=0.5,
    best_step=100,
)


def test_a_line_tells_data_wait_memory_and_epoch() -> None:
    assert progress_line("mixed", FULL) == (
        "mixed: train  120/600 (20 %)  loss 1.2500  410 samples/s  2m10s left  epoch 2.5  "
        "25 % data wait  1.5 GiB"
    )


def test_a_stage_that_is_done_sums_up() -> None:
    status = StageStatus(name="mixed", state=State.SUCCEEDED, progress=FULL)
    assert ending_line("mixed", status, 61) == (
        "mixed: succeeded in 1m01s  loss 1.2500  410 samples/s  best held/top1 50.00 % at step 100"
    )


def test_programs_get_a_json_document_a_line() -> None:
    out = io.StringIO()
    display = run_display(out, ProgressStyle.JSON)
    display.stage_started(STAGE, 2, Path("/log"))
    display.stage_progress(STAGE, FULL)
    display.stage_ended(STAGE, StageStatus(name="mixed", state=State.SUCCEEDED), 1.5)
    display.note("a word")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["started", "progress", "ended", "note"]
    assert (lines[0]["kind"], lines[0]["attempt"]) == ("pretrain", 2)
    assert (lines[1]["step"], lines[1]["dataWait"]) == (120, 0.25)
    assert (lines[2]["state"], lines[2]["seconds"]) == ("Succeeded", 1.5)


def test_a_terminal_shows_a_bar_that_begins_at_once_and_leaves_lines() -> None:
    screen = Terminal()
    display = run_display(screen)
    display.stage_started(STAGE, 1, Path("/log"))
    display.stage_progress(STAGE, StageProgress(phase="start"))
    display.stage_progress(STAGE, FULL)
    display.note("a word")
    display.stage_ended(STAGE, StageStatus(name="mixed", state=State.SUCCEEDED), 61)
    text = screen.getvalue()
    assert "mixed: starting pretrain (log: /log)" in text
    assert "mixed: train" in text
    assert "120/600" in text
    assert text.index("a word") < text.index("mixed: succeeded in 1m01s")


@pytest.mark.parametrize(
    "arguments", [["--progress", "json", "version"], ["version", "--progress=plain"]]
)
def test_the_style_may_stand_anywhere(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLORENCECTL_PROGRESS", "auto")
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert progress_style().value in " ".join(arguments)
    wrong = CliRunner().invoke(app, ["version", "--progress", "loud"])
    assert wrong.exit_code == 2
    assert "auto, bar, plain, json" in wrong.stderr
