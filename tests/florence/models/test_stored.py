"""Models as files: what is written comes back, and what is broken is refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from florence.checkpoint import write_final_model
from florence.config import Attention, architecture_of
from florence.errors import DataError
from florence.models.stored import ModelCard, load_model, model_bytes, read_model, save_model
from florence.models.two_tower import TwoTower, build_model
from florence.storage import open_storage

NANO = architecture_of("coswin-nano")
NANO = NANO.model_copy(update={"text": NANO.text.model_copy(update={"vocabulary": 300})})
CARD = ModelCard(
    task="contrastive",
    architecture=NANO,
    window=6,
    resolution=96,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.25, 0.3),
    labels=("zero", "one"),
    templates=("the digit {}.", "{}"),
    head={"kind": "linear", "dropout": 0.5},
    trained={"job": "default/digits", "stage": "mixed", "step": 1200, "loss": 0.25},
)


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return build_model(NANO, seed=0, window=6)


@pytest.fixture
def folder(model: TwoTower, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", model, CARD)
    return tmp_path / "model"


@pytest.mark.parametrize("inside", ["", "model"])
def test_the_model_of_a_stage_is_loaded_from_its_folder(
    model: TwoTower, tmp_path: Path, inside: str
) -> None:
    storage = open_storage(str(tmp_path))
    write_final_model(storage, model_bytes(model.state_dict(), CARD), attempt=3)
    loaded, card = load_model(tmp_path / inside)
    assert card == CARD
    assert torch.equal(loaded.logit_scale, model.logit_scale)
    (weights,) = tmp_path.glob("model/*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match="differs from what was committed"):
        load_model(tmp_path / inside)


def test_a_model_comes_back_as_it_was(model: TwoTower, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    loaded, card = load_model(folder)
    assert card == CARD
    assert not loaded.training
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    images, ids = torch.randn(2, 3, 96, 96), torch.tensor([[298, 5, 299], [298, 299, 0]])
    model.eval()
    for expected, actual in zip(model(images, ids), loaded(images, ids), strict=True):
        assert torch.equal(expected, actual)


def test_a_loaded_model_can_be_trained(folder: Path) -> None:
    loaded, _ = load_model(folder, attention=Attention.MATH)
    loaded.train()
    loaded.encode_image(torch.randn(1, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.image.parameters())
    blocks = [block for stage in loaded.image.layers for block in stage.blocks]
    assert {block.attn.implementation for block in blocks} == {Attention.MATH}


def test_files_are_the_same_through_any_storage(model: TwoTower, folder: Path) -> None:
    files = model_bytes(model.state_dict(), CARD)
    assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded, card = read_model(files.__getitem__, source="s3://bucket/model")
    assert card == CARD
    assert torch.equal(loaded.logit_scale, model.logit_scale)


def test_saving_again_replaces_and_leaves_nothing_behind(folder: Path) -> None:
    other = build_model(NANO, seed=1, window=6)
    save_model(folder, other, CARD)
    assert len(list(folder.iterdir())) == 2
    loaded, _ = load_model(folder)
    assert torch.equal(loaded.text.text_projection, other.text.text_projection)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=name):
        load_model(folder)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_cut_file_is_named(folder: Path, name: str, keep: int) -> None:
    content = (folder / name).read_bytes()
    # The last byte of the json is a line break: take the bracket with it.
    (folder / name).write_bytes(content[: keep - 1 if keep < 0 else keep])
    with pytest.raises(DataError, match=name) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def change_card(folder: Path, **changes: Any) -> None:
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(card | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"window": 0}, "window"),
        ({"colour": "red"}, "colour"),
        ({"schemaVersion": 3}, "schemaVersion"),
        ({"architecture": {}}, "architecture"),
        ({"mean": [0.1, 0.2]}, "mean"),
    ],
)
def test_a_card_that_cannot_be_is_refused(folder: Path, changes: dict[str, Any], said: str) -> None:
    change_card(folder, **changes)
    with pytest.raises(DataError, match=f"config.json.*{said}"):
        load_model(folder)


def test_weights_of_another_window_are_refused(folder: Path) -> None:
    change_card(folder, window=5)
    with pytest.raises(DataError, match=r"model.safetensors.*bias_table.*121.*81.*and 4 more"):
        load_model(folder)


@pytest.mark.parametrize("fault", ["missing", "unknown", "integers"])
def test_weights_that_do_not_fit_are_refused(folder: Path, fault: str) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    if fault == "missing":
        del state["image.norm.weight"]
    elif fault == "unknown":
        state["image.norm.weight2"] = torch.zeros(1)
    else:
        state["image.norm.weight"] = state["image.norm.weight"].long()
    save_file(state, path)
    with pytest.raises(DataError, match=r"model.safetensors.*image\.norm\.weight"):
        load_model(folder)


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_nothing_is_unpickled(folder: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / "written"
    pickle.loads(pickle.dumps(Bomb(target)))
    assert target.exists(), "the bomb must work"
    target.unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(target)))
    with pytest.raises(DataError, match=name):
        load_model(folder)
    assert not target.exists()
