"""The commands of docs/detection.md, in its order, with a detector that has seen a few scenes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from florence_jobs.recipes import roboflow
from florencectl.main import app
from tests.cli.test_documented_commands import ROOT, shown_in

# Both tests are about the same digits.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("detection-page")]

LINES = [line.partition("florencectl ")[2] for line in shown_in(ROOT / "docs/detection.md")]
DATA, SUBMIT, DRAW, PRINT, IMPORT, SWEEP = LINES
AQUARIUM = ("fish", "jellyfish", "penguin", "puffin", "shark", "stingray", "starfish")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detection")
    with contextlib.chdir(folder):
        run(DATA)
    return folder


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("FLORENCE_HOME", str(folder / ".florence"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("M", str(folder / ".florence/artifacts/default/mine/detection/model"))


def run(line: str, *more: str) -> str:
    words = [os.path.expandvars(word) for word in shlex.split(line)]
    result = CliRunner().invoke(app, [*words, *more])
    assert result.exit_code == 0, (line, result.output)
    return result.stdout


def test_a_detector_is_trained_and_draws_what_it_finds(folder: Path) -> None:
    # Two steps of the page's 400, and nothing to measure.
    run(SUBMIT.replace("--steps 400", "--steps 2").replace("--validation digits/scenes/test", ""))
    run(DRAW)
    assert len(list((folder / "found").iterdir())) == 1
    found = json.loads(run(PRINT))
    assert all({"bbox", "score", "category_id"} <= set(each) for each in found)


def test_a_roboflow_set_becomes_a_sweep_over_the_protocols_seeds(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = folder / "aquarium-export/train"
    shutil.copytree(folder / "digits/scenes/images/train", export)
    truth = json.loads((folder / "digits/scenes/instances_train.json").read_text("utf-8"))
    truth["annotations"] = [a for a in truth["annotations"] if a["category_id"] < len(AQUARIUM)]
    truth["categories"] = [{"id": n, "name": name} for n, name in enumerate(AQUARIUM)]
    (export / "_annotations.coco.json").write_text(json.dumps(truth))
    run(IMPORT)
    assert list((folder / "aquarium/train").glob("*.tar"))
    roboflow.main(["aquarium", "--data", "aquarium", "--model", os.environ["M"], "--shots", "5"])
    (folder / "job.yaml").write_text(capsys.readouterr().out)
    shown = run(SWEEP, "--dry-run")
    assert [f"shotsSeed: {seed}" in shown for seed in (3, 30, 300)] == [True] * 3
