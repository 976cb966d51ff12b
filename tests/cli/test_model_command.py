"""``florencectl model import``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from florence.config import ImageTower, TextTower
from florence.models.image import CoSwin
from florence.models.stored import read_folder, two_tower_of
from florence.models.text import TextTransformer
from florencectl.main import app
from tests.florence.models.references import randomise

IMAGE = ImageTower(
    width=8, depths=(1, 1, 2, 1), heads=(1, 2, 2, 4), window=4, embedding="swin", drop_path=0
)
TEXT = TextTower(width=64, layers=1, heads=1, hidden=128, context=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of towers, whose names are timm's and open_clip's."""
    root = tmp_path_factory.mktemp("checkpoints")
    image, text = CoSwin(IMAGE, 16), TextTransformer(TEXT, 16)
    randomise(image)
    randomise(text)
    state = image.state_dict()
    del state["projection.weight"]
    save_file(state | {"head.fc.weight": torch.ones(3, 64)}, root / "swin.safetensors")
    torch.save({"state_dict": text.state_dict()}, root / "text.pt")
    torch.save({"state_dict": state, "config": Path("x")}, root / "unsafe.pt")
    return root


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["model", "import", *arguments])


def test_two_checkpoints_become_a_model_folder(tmp_path: Path) -> None:
    out = tmp_path / "model"
    result = invoke("swin.safetensors", "text.pt", str(out), "-o", "json", "--window", "5")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    stored = read_folder(out)
    model, card = two_tower_of(stored), stored.card
    assert document["card"] == card.wire()
    assert card.window == 5
    assert card.trained == {"importedFrom": "swin.safetensors, text.pt"}
    assert document["uri"].endswith("/model")
    tensors = document["tensors"]
    assert tensors["fresh"] == ["image.projection.weight", "logit_scale"]
    assert tensors["unused"] == ["swin.safetensors: head.fc.weight"]
    assert tensors["misfits"] == {}
    assert len(tensors["resized"]) == 5
    named = {*tensors["taken"], *tensors["resized"], *tensors["fresh"]}
    assert named == set(model.state_dict())
    assert model.text.token_embedding.weight.shape == (49_408, 64)


def test_the_table_names_what_was_not_simply_taken(tmp_path: Path) -> None:
    result = invoke("text.pt", str(tmp_path / "m"), "--context", "12", "--preset", "coswin-nano")
    assert result.exit_code == 0, result.stderr
    header, *lines = [line.split() for line in result.stdout.splitlines()]
    assert header == ["TENSORS", "BECAME", "WHY"]
    became = {line[0]: line[1] for line in lines[1:]}
    assert lines[0][1:3] == ["tensors", "taken"]
    assert became == {
        "text.positional_embedding": "resized",
        "image.*": "fresh",
        "logit_scale": "fresh",
    }
    assert "a contrastive model of" in result.stderr


def test_a_model_is_replaced_only_when_told(tmp_path: Path) -> None:
    out = str(tmp_path / "m")
    assert invoke("text.pt", out, "--preset", "coswin-nano").exit_code == 0
    again = invoke("text.pt", out, "--preset", "coswin-nano")
    assert again.exit_code == 2
    assert "a model is there already: --force replaces it" in again.stderr
    forced = invoke("text.pt", out, "--preset", "coswin-nano", "--force", "--mean", "0.1,0.2,0.3")
    assert forced.exit_code == 0
    assert read_folder(Path(out)).card.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.pt", "out"], 3, "none.pt: cannot be read: No such file"),
        (["unsafe.pt", "out"], 3, "unsafe.pt: reading it would call pathlib"),
        (["text.pt", "text.pt", "out", "--text-heads", "2"], 3, "both have text towers"),
        (["text.pt", "out", "--text-heads", "7"], 3, "heads=7 does not divide width=64"),
        (["text.pt", "out", "--preset", "x"], 2, "unknown preset 'x'"),
        (["text.pt", "out", "--activation", "relu"], 2, "--activation: "),
        (["text.pt", "out", "--mean", "0.5,0.5"], 2, "--mean '0.5,0.5' is not three numbers"),
        (["text.pt", "ftp://x/y"], 2, "ftp://"),
    ],
)
def test_what_is_refused_leaves_nothing(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert message in line
    assert not (folder / "out").exists()
