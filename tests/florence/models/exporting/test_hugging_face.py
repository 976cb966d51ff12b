"""An exported model is loaded by transformers itself, in a process that was told of no class."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from florence.errors import ConfigurationError
from florence.models.classifier import classifier_of
from florence.models.exporting.hugging_face import hugging_face_files
from florence.models.stored import StoredModel
from florence.tasks.finetune.predict import ClassificationPredictor
from tests import small_model
from tests.florence.models.exporting.small_exports import LABELS, classifier

pytest.importorskip("transformers", reason="transformers is not installed")

LOAD = """
import sys
import torch
import transformers

loader, folder, inputs, outputs, *pictures = sys.argv[1:]
model, told = getattr(transformers, loader).from_pretrained(
    folder, trust_remote_code=True, output_loading_info=True
)
assert not any(told.values()), told
with torch.no_grad():
    out = model(**torch.load(inputs))
out = {"names": model.config.id2label, **out}
if pictures:
    use = transformers.pipeline("image-classification", model=folder, trust_remote_code=True)
    out["answers"] = use(pictures)
torch.save(out, outputs)
"""


def stored(**changes: object) -> StoredModel:
    card = small_model.CARD.model_copy(update=changes)
    return StoredModel("runs/m", card, dict(small_model.network().state_dict()))


def computed(
    model: StoredModel,
    loader: str,
    inputs: dict[str, torch.Tensor],
    tmp_path: Path,
    *pictures: Path,
) -> dict[str, Any]:
    """What a class of transformers computes of an exported model, the names of its classes, and
    what its pipeline answers about pictures."""
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, content in hugging_face_files(model).items():
        (folder / name).write_bytes(content)
    torch.save(inputs, tmp_path / "in.pt")
    arguments = map(str, (loader, folder, tmp_path / "in.pt", tmp_path / "out.pt", *pictures))
    subprocess.run(
        [sys.executable, "-c", LOAD, *arguments],
        check=True,
        timeout=300,
        # Its modules are copied into a cache, which is not to be this machine's.
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
    )
    out: dict[str, Any] = torch.load(tmp_path / "out.pt")
    return out


def test_transformers_loads_it_and_computes_the_same(tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = torch.tensor([[49406, 320, 49407, 0], [49406, 320, 1929, 49407]])
    inputs = {"pixel_values": images, "input_ids": texts}
    out = computed(stored(), "AutoModel", inputs, tmp_path)
    model = small_model.network()
    with torch.no_grad():
        u, v = model.encode_image(images), model.encode_text(texts)
        logits = model.logit_scale.exp() * u @ v.T
    torch.testing.assert_close(out["image_embeds"], u, rtol=0, atol=1e-5)
    torch.testing.assert_close(out["text_embeds"], v, rtol=0, atol=1e-5)
    torch.testing.assert_close(out["logits_per_image"], logits, rtol=0, atol=1e-4)


def test_a_classifier_is_one_of_transformers_own(tmp_path: Path) -> None:
    model = classifier(hidden=8)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    files = [tmp_path / "square.png", tmp_path / "wide.png"]
    small_model.picture(1).save(files[0])
    small_model.picture(2, (96, 64)).save(files[1])
    loader = "AutoModelForImageClassification"
    out = computed(model, loader, {"pixel_values": images}, tmp_path, *files)
    with torch.no_grad():
        logits = classifier_of(model)(images)
    torch.testing.assert_close(out["logits"], logits, rtol=0, atol=1e-5)
    assert out["names"] == dict(enumerate(LABELS))
    # What its pipeline says of pictures is what ours does, but for who resizes them.
    ours = ClassificationPredictor(model, torch.device("cpu"))
    for file, answer, tolerance in zip(files, out["answers"], (1e-5, 2e-2), strict=True):
        (expected,) = ours.predict([{"image": file.read_bytes()}], {"top": 3})
        found = {each["label"]: each["score"] for each in answer}
        assert found == pytest.approx(expected["probabilities"], abs=tolerance)
    page = hugging_face_files(model)["README.md"].decode()
    for fact in ("image-classification", "| cat, dog, jay |", "id2label"):
        assert fact in page


def test_the_page_says_what_the_card_says() -> None:
    page = hugging_face_files(stored(trained={"job": "team/web", "step": 20}))["README.md"].decode()
    _, front, text = page.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    parameters = sum(value.numel() for value in small_model.network().parameters())
    for fact in (f"{parameters:,}", "RGB, 32 x 32", "| trained: job | team/web |", "clip-bpe"):
        assert fact in text


def test_other_tasks_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"runs/m.*two towers.*'detection'"):
        hugging_face_files(stored(task="detection"))
