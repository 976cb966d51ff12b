"""``florencectl predict``, ``embed`` and ``search`` with videos, and what is wrong with some."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import florence
from florencectl.main import app
from tests.small_model import picture
from tests.small_model import save as save_two_towers
from tests.small_video import LABELS, save, video

RUNNER = CliRunner()
KINETICS = "label,youtube_id,time_start,time_end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both models of clips, one of images, and files."""
    root = tmp_path_factory.mktemp("videos")
    save(root / "actions")
    save(root / "texts", texts=True)
    save_two_towers(root / "towers")
    (root / "clips").mkdir()
    for number in range(3):
        (root / "clips" / f"{number}.mp4").write_bytes(video(seed=number))
    (root / "cut.mp4").write_bytes(video()[:600])
    picture(0).save(root / "photo.png")
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, list(arguments))


def test_actions_of_a_folder_of_videos() -> None:
    result = invoke("predict", "actions", "clips", "--top", "2", "-o", "json")
    assert result.exit_code == 0, result.output
    answers = json.loads(result.stdout)
    assert [answer["video"] for answer in answers] == [f"clips/{n}.mp4" for n in range(3)]
    for answer in answers:
        assert len(answer["probabilities"]) == 2
        assert answer["label"] in LABELS
    (expected,) = florence.load("actions", device="cpu").predict("clips/1.mp4", top=2)
    assert answers[1]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_a_timeline_has_a_row_for_each_part() -> None:
    result = invoke("predict", "actions", "clips/0.mp4", "--every", "500ms", "-o", "csv")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["start"] for row in rows] == ["0 s", "0.5 s", "1 s", "1.5 s"]
    assert {row["video"] for row in rows} == {"clips/0.mp4"}
    assert all(row["label"] in LABELS for row in rows)


@pytest.mark.parametrize("value", ["soon", "-1s", "2 d"])
def test_a_wrong_length_of_time_is_one_line(value: str) -> None:
    result = invoke("predict", "actions", "clips/0.mp4", f"--every={value}")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"--every: '{value}' is no length of time: write 2s or 500ms" in line


def test_files_that_do_not_fit_are_named_and_the_rest_is_answered() -> None:
    result = invoke("predict", "actions", "photo.png", "cut.mp4", "clips/0.mp4", "-o", "json")
    assert result.exit_code == 3
    lines = result.stderr.splitlines()
    assert "photo.png: actionRecognition models take videos" in lines[0]
    assert "cut.mp4: broken video" in lines[1]
    assert [answer["video"] for answer in json.loads(result.stdout)] == ["clips/0.mp4"]
    result = invoke("predict", "towers", "clips/0.mp4", "--labels", "a,b")
    assert result.exit_code == 3
    assert "clips/0.mp4: contrastive models take images" in result.stderr


def test_words_of_ones_choice() -> None:
    result = invoke("predict", "texts", "clips/2.mp4", "--labels", "cat,dog", "-o", "json")
    assert result.exit_code == 0, result.output
    (answer,) = json.loads(result.stdout)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("model", ["texts", "towers"])
def test_embedded_videos_are_found_by_a_text(tmp_path: Path, model: str) -> None:
    index = str(tmp_path / "index.npz")
    result = invoke("embed", model, "clips", "cut.mp4", "-o", index)
    assert result.exit_code == 3
    assert "cut.mp4: broken video" in result.stderr
    result = invoke("search", model, index, "a seven", "--top", "2", "-o", "json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    with np.load(index) as arrays:
        names, rows = arrays["names"], arrays["embeddings"]
    scores = rows @ florence.load(model, device="cpu").embed_texts("a seven").numpy()[0]
    order = np.argsort(-scores)[:2]
    assert [each["name"] for each in found] == [str(names[i]) for i in order]
    assert [each["score"] for each in found] == pytest.approx(scores[order].tolist(), abs=1e-5)


def test_a_model_without_texts_neither_embeds_nor_searches(tmp_path: Path) -> None:
    result = invoke("embed", "actions", "clips/0.mp4", "-o", str(tmp_path / "i.npz"))
    assert result.exit_code == 2
    assert "actionRecognition models do not embed videos" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format_name", "content", "told"),
    [
        ("kinetics", "label,id\na,x\n", "has no column time_end, time_start, youtube_id"),
        (
            "kinetics",
            "label,youtube_id,time_start,time_end\na,gone,0,9\n",
            "1 of 1 rows are broken",
        ),
        ("msrvtt", "key,video,text\n1,x,y\n", "has no column"),
        ("webvid", "videoid,title\n1,x\n", "has no column"),
    ],
)
def test_a_wrong_table_is_one_line_and_leaves_nothing(
    tmp_path: Path, format_name: str, content: str, told: str
) -> None:
    (tmp_path / "table.csv").write_text(content)
    out = tmp_path / "out"
    result = invoke("data", "import", format_name, str(tmp_path / "table.csv"), str(out))
    assert result.exit_code == 3
    assert told in result.stderr
    assert not out.exists() or not list(out.rglob("*.tar"))
