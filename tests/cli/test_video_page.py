"""The commands of docs/video.md, with a few short clips and models of them."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florencectl.main import app
from tests.cli.test_documented_commands import ROOT, shown_in
from tests.small_model import picture
from tests.small_model import save as save_two_towers
from tests.small_video import LABELS, save, video

pytestmark = pytest.mark.slow

LINES = [line.partition("florencectl ")[2] for line in shown_in(ROOT / "docs/video.md")]
SAMPLE, TRAIN, KINETICS, MSRVTT, CHECK, *USING, DIGITS, PLAN = LINES
ACTIONS, TIMELINE, LABELLED, EMBED, SEARCH = USING


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the commands run in."""
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("FLORENCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (folder / "clips").mkdir()
    (folder / "lectures").mkdir()
    (folder / "photos").mkdir()
    for number in range(2):
        (folder / f"clips/{number}.mp4").write_bytes(video(seed=number))
        (folder / f"lectures/{number}.mp4").write_bytes(video(30, seed=number))
    (folder / "clip.mp4").write_bytes(video(seed=2))
    picture(0).save(folder / "photos/0.png")
    return folder


def run(line: str, *more: str) -> str:
    result = CliRunner().invoke(app, [*shlex.split(line), *more])
    assert result.exit_code == 0, (line, result.output)
    return result.stdout


def test_the_samples_are_jobs(folder: Path) -> None:
    (folder / "jobs").symlink_to(ROOT / "jobs")
    assert "mode: retrieval" in run(SAMPLE, "--dry-run")
    assert "kinetics" in run(PLAN)


def test_kinetics_becomes_shards_that_train(folder: Path) -> None:
    rows = ["label,youtube_id,time_start,time_end"]
    for number, label in enumerate(LABELS):
        path = folder / f"k400/train/{label}/c{number}_000000_000002.mp4"
        path.parent.mkdir(parents=True)
        path.write_bytes(video(seed=number))
        rows.append(f"{label},c{number},0,2")
    for part in ("train", "val"):
        (folder / f"k400/{part}.csv").write_text("\n".join(rows) + "\n")
        line = KINETICS.replace("k400/train.csv", f"k400/{part}.csv")
        run(line.replace("shards/k400-train", f"shards/k400-{part}"))
    run(CHECK)
    save_two_towers(folder / "MODEL")
    shown = run(TRAIN, "--dry-run")
    assert "mode: actions" in shown


def test_msrvtts_test_split_becomes_shards(folder: Path) -> None:
    (folder / "msrvtt/videos").mkdir(parents=True)
    (folder / "msrvtt/videos/video7.mp4").write_bytes(video())
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(
        "key,vid_key,video_id,sentence\nret0,msr7,video7,a man runs\n"
    )
    run(MSRVTT)
    assert list((folder / "shards/msrvtt-1ka").glob("*.tar"))


def test_a_classifier_of_actions_answers(folder: Path) -> None:
    save(folder / "MODEL")
    assert "clip.mp4" in run(ACTIONS)
    rows = list(csv.DictReader(io.StringIO(run(TIMELINE))))
    assert [row["start"] for row in rows] == ["0 s", "2 s"] * 2


def test_clips_and_photos_are_found_by_a_text(folder: Path) -> None:
    save_two_towers(folder / "MODEL")
    run(EMBED)
    found = json.loads(run(SEARCH, "-o", "json"))
    assert {each["name"] for each in found} == {"clips/0.mp4", "clips/1.mp4", "photos/0.png"}
    save(folder / "MODEL2", texts=True)
    assert "skating" in run(LABELLED.replace("MODEL", "MODEL2"))


def test_clips_of_the_digits_are_written(folder: Path) -> None:
    run(DIGITS)
    for part in ("actions", "pairs"):
        assert list((folder / "digits" / part).rglob("*.tar"))
