"""Exported graphs are run by who else runs them, on batches that they were not traced with."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from florence.errors import ConfigurationError, FlorenceError
from florence.models.card import parse_card
from florence.models.classifier import classifier_of
from florence.models.exporting.graphs import (
    check_onnx,
    graphs_of,
    onnx_files,
    torch_export_files,
)
from florence.models.stored import CARD, StoredModel
from tests import small_model
from tests.florence.models.exporting.small_exports import classifier

ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")


def stored(**changes: object) -> StoredModel:
    card = small_model.CARD.model_copy(update=changes)
    return StoredModel("runs/m", card, dict(small_model.network().state_dict()))


def inputs(batch: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(batch)
    context = small_model.NANO.text.context
    texts = torch.zeros(batch, context, dtype=torch.int64)
    texts[:, 0], texts[:, 1], texts[:, 2] = 49406, torch.arange(batch) + 320, 49407
    return {"image": torch.randn(batch, 3, 32, 32, generator=generator), "text": texts}


def expected(name: str, batch: torch.Tensor) -> torch.Tensor:
    model = small_model.network()
    with torch.no_grad():
        return model.encode_image(batch) if name == "image" else model.encode_text(batch)


@pytest.mark.slow
def test_onnxruntime_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    files = onnx_files(stored(), largest=0)
    assert files.keys() == {*("image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data", CARD)}
    assert parse_card(files[CARD], "")[0] == small_model.CARD
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name, given, output in (
        ("image", "pixel_values", "image_embeds"),
        ("text", "input_ids", "text_embeds"),
    ):
        session = ort.InferenceSession(str(tmp_path / f"{name}.onnx"))
        for batch in (1, 5):
            values = inputs(batch)[name]
            (found,) = session.run([output], {given: values.numpy()})
            np.testing.assert_allclose(found, expected(name, values).numpy(), atol=1e-5)
    # A graph of another model is found out.
    other = graphs_of(stored())["image"]
    with torch.no_grad():
        for name, parameter in other.module.named_parameters():
            if "projection" in name:
                parameter.neg_()
    with pytest.raises(FlorenceError, match=r"image\.onnx: onnxruntime differs"):
        check_onnx(tmp_path / "image.onnx", other)


@pytest.mark.slow
def test_torchs_own_programs_compute_the_same_for_any_batch() -> None:
    files = torch_export_files(stored())
    assert files.keys() == {"image.pt2", "text.pt2", CARD}
    for name in ("image", "text"):
        program = torch.export.load(io.BytesIO(files[f"{name}.pt2"])).module()
        for batch in (1, 5):
            values = inputs(batch)[name]
            with torch.no_grad():
                torch.testing.assert_close(
                    program(values), expected(name, values), rtol=0, atol=1e-5
                )


@pytest.mark.slow
@torch.no_grad()
def test_a_classifiers_logits_are_those_of_both_graphs(tmp_path: Path) -> None:
    stored = classifier(hidden=8)
    onnx, program = onnx_files(stored), torch_export_files(stored)
    assert (onnx.keys(), program.keys()) == ({"classifier.onnx", CARD}, {"classifier.pt2", CARD})
    (tmp_path / "classifier.onnx").write_bytes(onnx["classifier.onnx"])
    session = ort.InferenceSession(str(tmp_path / "classifier.onnx"))
    loaded = torch.export.load(io.BytesIO(program["classifier.pt2"])).module()
    model = classifier_of(stored)
    for batch in (1, 5):
        images = inputs(batch)["image"]
        logits = model(images)
        (found,) = session.run(["logits"], {"pixel_values": images.numpy()})
        np.testing.assert_allclose(found, logits.numpy(), rtol=0, atol=1e-5)
        torch.testing.assert_close(loaded(images), logits, rtol=0, atol=1e-5)


def test_other_tasks_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"runs/m.*two towers.*'detection'"):
        graphs_of(stored(task="detection"))
