"""``florencectl predict`` with detectors: tables, COCO's results, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from florencectl.main import app
from tests.small_detector import LABELS, save
from tests.small_model import picture
from tests.small_model import save as save_two_towers

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detectors of both sorts, a two-tower model, and two images."""
    root = tmp_path_factory.mktemp("boxes")
    save(root / "detector")
    save(root / "zero-shot", texts=True)
    save_two_towers(root / "towers")
    picture(0, (70, 50)).save(root / "street.jpg")
    (root / "other").mkdir()
    picture(1, (40, 60)).save(root / "other" / "street.jpg")
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["predict", *arguments])


def test_json_is_cocos_list_of_results() -> None:
    result = invoke("detector", "street.jpg", "-o", "json")
    assert result.exit_code == 0, result.output
    boxes = json.loads(result.stdout)
    assert 1 <= len(boxes) <= 100
    for box in boxes:
        assert box["image_id"] == "street.jpg"
        assert box["category"] == LABELS[box["category_id"] - 1]
        x, y, width, height = box["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 70.01
        assert y + height <= 50.01
        assert 0.3 <= box["score"] <= 1
    assert [b["score"] for b in boxes] == sorted((b["score"] for b in boxes), reverse=True)


def test_a_table_has_a_row_for_every_box() -> None:
    boxes = json.loads(invoke("detector", "street.jpg", "-o", "json").stdout)
    result = invoke("detector", "street.jpg", "-o", "csv")
    header, *rows = result.stdout.splitlines()
    assert header == "image,label,score,box"
    assert len(rows) == len(boxes)


def test_a_threshold_leaves_boxes_out() -> None:
    every = json.loads(invoke("detector", "street.jpg", "-o", "json").stdout)
    some = json.loads(invoke("detector", "street.jpg", "-o", "json", "--threshold", "0.78").stdout)
    assert [box for box in every if box["score"] >= 0.78] == some
    refused = invoke("detector", "street.jpg", "--threshold", "7")
    assert refused.exit_code != 0


def test_pictures_are_written_into_a_folder(tmp_path: Path) -> None:
    """Two images of one name do not overwrite each other, and nothing leaves the picture."""
    result = invoke("detector", "street.jpg", "other/street.jpg", "--save", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["street-2.jpg", "street.jpg"]
    with Image.open(tmp_path / "out" / "street.jpg") as drawn:
        assert drawn.size == (70, 50)
        with Image.open("street.jpg") as image:
            assert (np.asarray(drawn) != np.asarray(image)).any()


def test_one_picture_may_be_named(tmp_path: Path) -> None:
    target = tmp_path / "a" / "found.png"
    assert invoke("detector", "street.jpg", "--save", str(target)).exit_code == 0
    with Image.open(target) as drawn:
        assert drawn.size == (70, 50)
    several = invoke("detector", "street.jpg", "other/street.jpg", "--save", str(target))
    assert several.exit_code == 2
    assert "is one file for 2 images: name a folder" in several.stderr


def test_answers_that_are_not_drawn_are_refused(tmp_path: Path) -> None:
    result = invoke("towers", "street.jpg", "--labels", "cat,dog", "--save", str(tmp_path))
    assert result.exit_code == 2
    assert "--save: answers of contrastive models are not drawn" in result.stderr


def test_a_zero_shot_detector_finds_what_words_name() -> None:
    words = ("--labels", "red bicycle,dog", "-o", "json", "--threshold", "0")
    result = invoke("zero-shot", "street.jpg", *words)
    assert result.exit_code == 0, result.output
    boxes = json.loads(result.stdout)
    assert {box["category"] for box in boxes} == {"red bicycle", "dog"}
    missing = invoke("zero-shot", "street.jpg")
    assert missing.exit_code == 2
    assert "--labels is needed by zeroShotDetection models" in missing.stderr
    refused = invoke("detector", "street.jpg", "--labels", "dog")
    assert refused.exit_code == 2
    assert "--labels is not for detection models, which take --threshold" in refused.stderr
