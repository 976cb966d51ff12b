"""An exported model is loaded by transformers itself, in a process that was told of no class."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from florence.errors import ConfigurationError
from florence.models.exporting.hugging_face import hugging_face_files
from florence.models.stored import StoredModel
from tests import small_model

pytest.importorskip("transformers", reason="transformers is not installed")

LOAD = """
import sys
import torch
from transformers import AutoModel

folder, inputs, outputs = sys.argv[1:]
model, told = AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not any(told.values()), told
with torch.no_grad():
    out = model(**torch.load(inputs))
torch.save(dict(out), outputs)
"""


def stored(**changes: object) -> StoredModel:
    card = small_model.CARD.model_copy(update=changes)
    return StoredModel("runs/m", card, dict(small_model.network().state_dict()))


def test_transformers_loads_it_and_computes_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    for name, content in hugging_face_files(stored()).items():
        (folder / name).write_bytes(content)
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = torch.tensor([[49406, 320, 49407, 0], [49406, 320, 1929, 49407]])
    torch.save({"pixel_values": images, "input_ids": texts}, tmp_path / "in.pt")
    subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, (folder, tmp_path / "in.pt", tmp_path / "out.pt"))],
        check=True,
        timeout=300,
        # Its modules are copied into a cache, which is not to be this machine's.
        env={**os.environ, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"},
    )
    out = torch.load(tmp_path / "out.pt")
    model = small_model.network()
    with torch.no_grad():
        u, v = model.encode_image(images), model.encode_text(texts)
        logits = model.logit_scale.exp() * u @ v.T
    torch.testing.assert_close(out["image_embeds"], u, rtol=0, atol=1e-5)
    torch.testing.assert_close(out["text_embeds"], v, rtol=0, atol=1e-5)
    torch.testing.assert_close(out["logits_per_image"], logits, rtol=0, atol=1e-4)


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
