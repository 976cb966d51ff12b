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
from florence.models.image import CoSwin
from florence.models.stored import (
    ModelCard,
    StoredModel,
    load_tower,
    model_bytes,
    read_folder,
    read_stored,
    save_model,
    take,
    two_tower_of,
)
from florence.models.text import TextTransformer
from florence.models.two_tower import TwoTower, build_model
from florence.models.window_resize import resize_windows
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


def load_model(folder: Path, attention: Attention | None = None) -> tuple[TwoTower, ModelCard]:
    stored = read_folder(folder)
    return two_tower_of(stored, attention=attention), stored.card


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
    stored = read_stored(files.__getitem__, "s3://bucket/model")
    loaded, card = two_tower_of(stored), stored.card
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


def classifier(model: TwoTower) -> StoredModel:
    """A classification model on the image tower of ``model``: no text tower, but a head."""
    state = {name: value for name, value in model.state_dict().items() if name[:5] == "image"}
    state["head.weight"] = torch.randn(3, 8 * NANO.image.width)
    card = CARD.model_copy(update={"task": "classification", "labels": ("a", "b", "c")})
    return read_stored(model_bytes(state, card).__getitem__, "s3://bucket/classifier")


def test_another_tasks_model_is_read_and_is_no_two_tower_model(
    model: TwoTower, tmp_path: Path
) -> None:
    stored = classifier(model)
    assert stored.uri == "s3://bucket/classifier"
    assert stored.card.labels == ("a", "b", "c")
    assert all(
        not value.requires_grad and value.device.type == "cpu" for value in stored.state.values()
    )
    files = model_bytes(stored.state, stored.card)
    with pytest.raises(
        DataError, match=r"s3://bucket/classifier: a model of task 'classification'"
    ):
        two_tower_of(stored)
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="task 'classification'"):
        load_model(tmp_path)


def test_taking_a_part_keeps_its_tensors(model: TwoTower) -> None:
    state = {"image.a": torch.zeros(1), "image.b.c": torch.ones(1), "images.a": torch.ones(1)}
    part = take(state, "image")
    assert list(part) == ["a", "b.c"]
    assert part["b.c"] is state["image.b.c"]
    assert take(state, "") == state


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("source", ["two towers", "classifier"])
@pytest.mark.parametrize("window", [6, 8])
def test_a_tower_is_taken_from_a_model_of_any_task(
    model: TwoTower, folder: Path, meta: bool, source: str, window: int
) -> None:
    """Its windows are resized where they differ, and nothing is shared with what was read."""
    stored = read_folder(folder) if source == "two towers" else classifier(model)
    with torch.device("meta" if meta else "cpu"):
        tower = CoSwin(NANO.image, NANO.embed_dim, window=window)
    assert load_tower(tower, stored, "image") == ()
    expected = resize_windows(model.image.state_dict(), tower)
    state = tower.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in state.items())
    with torch.no_grad():
        for parameter in tower.parameters():
            assert parameter.requires_grad
            parameter.zero_()
    assert torch.equal(stored.state["image.norm.weight"], model.image.norm.weight)


def test_the_text_tower_and_the_whole_are_taken_too(model: TwoTower, folder: Path) -> None:
    stored = read_folder(folder)
    text = TextTransformer(NANO.text, NANO.embed_dim)
    load_tower(text, stored, "text")
    assert torch.equal(text.text_projection, model.text.text_projection)
    whole = build_model(NANO, seed=9, window=8, init=False)
    assert load_tower(whole, stored, "") == ()
    assert not any(parameter.isnan().any() for parameter in whole.parameters())


def test_what_a_module_has_no_place_for_is_told(model: TwoTower, folder: Path) -> None:
    tower = CoSwin(NANO.image, NANO.embed_dim)
    tower.projection = torch.nn.Identity()
    assert load_tower(tower, read_folder(folder), "image") == ("projection.weight",)


def test_a_tower_that_does_not_fit_is_refused(model: TwoTower, folder: Path) -> None:
    wide = CoSwin(NANO.image.model_copy(update={"mlp_ratio": 2}), NANO.embed_dim)
    with pytest.raises(DataError, match=r"image.layers.0.blocks.0.mlp.fc1.bias' is .*128.*64"):
        load_tower(wide, read_folder(folder), "image")
    with pytest.raises(DataError, match=r"'text\.ln_final\.bias' is missing"):
        load_tower(TextTransformer(NANO.text, NANO.embed_dim), classifier(model), "text")


def test_a_model_that_was_read_once_is_built_many_times(model: TwoTower, folder: Path) -> None:
    stored = read_folder(folder)
    first, second = two_tower_of(stored), two_tower_of(stored, attention=Attention.MATH)
    with torch.no_grad():
        first.logit_scale.zero_()
    assert torch.equal(second.logit_scale, model.logit_scale)
    assert torch.equal(stored.state["logit_scale"], model.logit_scale)


def test_half_precision_weights_become_single(model: TwoTower) -> None:
    state = {name: value.half() for name, value in model.state_dict().items()}
    stored = read_stored(model_bytes(state, CARD).__getitem__, "x")
    assert {parameter.dtype for parameter in two_tower_of(stored).parameters()} == {torch.float32}
