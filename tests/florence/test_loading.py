"""``florence.load``: from a folder to predictions, in Python."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import florence
from florence.checkpoint import write_final_model
from florence.errors import ConfigurationError, DataError
from florence.kinds import MODEL_TASKS
from florence.loading import LoadedModel
from florence.models.stored import model_bytes
from florence.models.two_tower import TwoTower
from florence.storage import open_storage
from florence.tasks.inputs import Column, Inputs
from florence.tasks.kind import ModelTask
from florence.text.templates import DIGITS
from florence.text.tokenizer import tokenize
from tests.small_model import CARD, DIGITS_CARD, NANO, embedded, model_files, network, picture, save

LABELS = ["zero", "one", "two"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in a folder, the same as the artifacts of a stage, and pictures."""
    root = tmp_path_factory.mktemp("loading")
    save(root / "model", DIGITS_CARD)
    write_final_model(open_storage(str(root / "stage")), model_files(DIGITS_CARD), attempt=1)
    for number in range(3):
        picture(number).save(root / f"{number}.png")
    (root / "broken.png").write_bytes(b"\x89PNG nothing")
    return root


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return florence.load(folder / "model", device="cpu")


def pictures(folder: Path) -> list[Image.Image]:
    return [Image.open(folder / f"{number}.png") for number in range(3)]


def test_three_lines_from_import_to_a_prediction(folder: Path) -> None:
    script = (
        "import florence\n"
        "model = florence.load('model', device='cpu')\n"
        f"print(model.predict('0.png', labels={LABELS})[0])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, text=True, capture_output=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    answer = eval(result.stdout)  # the printed dictionary
    classes = []
    with torch.no_grad():
        for name in LABELS:
            texts = [template.replace("{}", name) for template in DIGITS]
            mean = network().encode_text(tokenize(texts)).mean(dim=0)
            classes.append(mean / mean.norm())
        similarity = embedded(pictures(folder))[0] @ torch.stack(classes).T
        expected = (similarity * network().logit_scale.exp()).softmax(dim=0)
    assert [answer["probabilities"][name] for name in LABELS] == pytest.approx(
        expected.tolist(), abs=2e-5
    )
    assert answer["label"] == LABELS[int(expected.argmax())]
    assert answer["probability"] == max(answer["probabilities"].values())


def test_images_are_paths_bytes_or_pictures_one_or_many(folder: Path, model: LoadedModel) -> None:
    paths = [folder / f"{number}.png" for number in range(3)]
    expected = model.predict(paths, labels=LABELS)
    assert len(expected) == 3
    for images in (
        [str(path) for path in paths],
        [path.read_bytes() for path in paths],
        [Image.open(path) for path in paths],
    ):
        assert model.predict(images, labels=LABELS) == expected
    for image in (paths[1], str(paths[1]), paths[1].read_bytes(), Image.open(paths[1])):
        (answer,) = model.predict(image, labels=LABELS)
        assert answer["label"] == expected[1]["label"]
        assert answer["probability"] == pytest.approx(expected[1]["probability"], abs=1e-5)


def test_embeddings_are_the_towers_own(folder: Path, model: LoadedModel) -> None:
    images = model.embed_images([folder / f"{number}.png" for number in range(3)])
    texts = model.embed_texts(["a dog", "the number seven"])
    torch.testing.assert_close(images, embedded(pictures(folder)), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        expected = network().encode_text(tokenize(["a dog", "the number seven"]))
    torch.testing.assert_close(texts, expected, atol=1e-5, rtol=1e-5)
    for embeddings in (images, texts, model.embed_texts("a dog")):
        assert embeddings.dtype == torch.float32
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(len(embeddings)))
    assert model.embed_images(folder / "0.png").shape == (1, NANO.embed_dim)
    (answer,) = model.predict(folder / "0.png")
    assert answer["embedding"] == pytest.approx(images[0].tolist(), abs=1e-5)


def test_templates_replace_those_of_training(folder: Path, model: LoadedModel) -> None:
    picture = folder / "0.png"
    own = model.predict(picture, labels=LABELS)
    assert model.predict(picture, labels=LABELS, templates=list(DIGITS)) == own
    assert model.predict(picture, labels=LABELS, templates=["not {}"]) != own


def test_card_and_module_are_there_to_be_used(model: LoadedModel) -> None:
    assert (model.card.task, model.card.resolution) == ("contrastive", 32)
    assert isinstance(model.module, TwoTower)
    assert not model.module.training


@pytest.mark.parametrize("uri", ["model", "stage", "stage/model", "stage/"])
def test_a_model_is_found_in_a_folder_and_in_a_stage(
    folder: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.chdir(folder)
    assert florence.load(uri, device="cpu").card.templates == DIGITS


def test_a_model_is_found_in_s3(folder: Path, s3_storage: Any, s3_settings: Any) -> None:
    for name in ("config.json", "model.safetensors"):
        s3_storage.write(name, folder / "model" / name)
    assert florence.load(s3_storage.uri, device="cpu", s3=s3_settings).card.resolution == 32


def test_a_name_of_a_registry_is_looked_up_by_what_is_installed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed package's entry point resolves it; this one's is of a registry of its own."""
    with pytest.raises(ConfigurationError, match="knows models by 'toy:/'"):
        florence.load("toy:/digits@champion")
    installed = tmp_path / "toy-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[florence.models]\ntoy = toyregistry:find\n")
    place = str(folder / "model")
    (tmp_path / "toyregistry.py").write_text(
        f"def find(uri, s3):\n    return {place!r} if uri == 'toy:/digits@champion' else uri\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert florence.load("toy:/digits@champion").card == DIGITS_CARD


def test_mistakes_say_what_and_where(folder: Path, model: LoadedModel) -> None:
    picture = folder / "0.png"
    with pytest.raises(ConfigurationError, match="take no 'label': use labels, templates"):
        model.predict(picture, label=["a"])
    with pytest.raises(DataError, match=r"none\.png: cannot be read: No such file"):
        model.predict(folder / "none.png", labels=LABELS)
    with pytest.raises(ValueError, match="row 1: image: broken image"):
        model.predict([picture, folder / "broken.png"], labels=LABELS)
    with pytest.raises(ValueError, match="labels must be a list of texts"):
        model.predict(picture, labels="cat")
    with pytest.raises(ValueError, match="'a' comes twice"):
        model.predict(picture, labels=["a", "a"])
    with pytest.raises(ValueError, match=r"has no \{\}"):
        model.predict(picture, labels=LABELS, templates=["a photo"])
    with pytest.raises(DataError, match=r"no model: there is no config\.json"):
        florence.load(folder)


class Counter:
    """Predicts how many images there are, and embeds nothing."""

    inputs = Inputs(columns=(Column(name="image", type="image", help="a picture"),))

    def __init__(self, stored: Any, device: torch.device) -> None:
        self.card, self.module = stored.card, torch.nn.Identity()

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        return [{"count": len(rows)} for _ in rows]


def test_a_task_says_what_its_models_can(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = CARD.model_copy(update={"task": "counting"})
    for name, content in model_bytes({"weight": torch.zeros(1)}, card).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match="models of the task 'counting' are not known"):
        florence.load(tmp_path)
    task = ModelTask(
        name="counting", help="count", inputs=Counter.inputs, predictor=f"{__name__}:Counter"
    )
    monkeypatch.setitem(MODEL_TASKS, "counting", task)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Counter.__module__])
    model = florence.load(tmp_path)
    assert model.predict([folder / "0.png"] * 2) == [{"count": 2}, {"count": 2}]
    with pytest.raises(ConfigurationError, match="counting models take no 'labels': use none"):
        model.predict(folder / "0.png", labels=LABELS)
    for embed in (lambda: model.embed_images(b""), lambda: model.embed_texts("a")):
        with pytest.raises(ConfigurationError, match="counting models do not embed"):
            embed()
