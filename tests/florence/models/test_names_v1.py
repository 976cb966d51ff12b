"""Models written before the parameters had the field's names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from florence.config import architecture_of
from florence.models.names_v1 import renamed_from_version_1
from florence.models.stored import read_folder, two_tower_of
from florence.models.two_tower import build_model
from florence.text.templates import DIGITS
from tests.florence.models.version_1 import version_1_state

NANO = architecture_of("coswin-nano")
NANO = NANO.model_copy(update={"text": NANO.text.model_copy(update={"vocabulary": 300})})


def write(folder: Path, state: dict[str, Tensor], **changes: Any) -> None:
    card = {
        "schemaVersion": 1,
        "architecture": NANO.wire(),
        "window": 4,
        "resolution": 64,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "tokenizer": "clip-bpe-49408",
        "trained": {"steps": 3},
    }
    (folder / "config.json").write_text(json.dumps(card | changes))
    save_file(state, folder / "model.safetensors")


@pytest.mark.parametrize("seed", [0, 7])
def test_a_seed_gives_the_weights_it_always_gave(seed: int) -> None:
    """Names have changed and the text projection is transposed; no bit of a value has changed."""
    old = version_1_state(NANO, seed=seed, temperature=0.05)
    new = build_model(NANO, seed=seed, temperature=0.05).state_dict()
    renamed = renamed_from_version_1(old)
    assert renamed.keys() == new.keys()
    assert [name for name in new if not torch.equal(renamed[name], new[name])] == []


def test_todays_names_stay() -> None:
    state = build_model(NANO, seed=0).state_dict()
    assert list(renamed_from_version_1(state)) == list(state)


@pytest.mark.parametrize("scale", ["log_scale", "logit_scale"])
@pytest.mark.parametrize("schema", [1, None])
def test_a_version_1_model_gives_equal_outputs(
    tmp_path: Path, scale: str, schema: int | None
) -> None:
    state = version_1_state(NANO, seed=3)
    state[scale] = state.pop("log_scale")
    write(tmp_path, state)
    if schema is None:
        card = json.loads((tmp_path / "config.json").read_text())
        del card["schemaVersion"]
        (tmp_path / "config.json").write_text(json.dumps(card))
    stored = read_folder(tmp_path)
    loaded, card = two_tower_of(stored), stored.card
    assert (card.schema_version, card.task, card.templates) == (2, "contrastive", ())
    assert (card.head, card.labels, card.trained) == (None, (), {"steps": 3})
    expected = build_model(NANO, seed=3).eval()
    images, ids = torch.randn(2, 3, 64, 64), torch.tensor([[298, 5, 299], [298, 299, 0]])
    for one, other in zip(expected(images, ids), loaded(images, ids), strict=True):
        assert torch.equal(one, other)


def test_templates_by_name_become_sentences(tmp_path: Path) -> None:
    write(tmp_path, version_1_state(NANO, seed=0), templates="digits")
    assert read_folder(tmp_path).card.templates == DIGITS
    write(tmp_path, version_1_state(NANO, seed=0), templates="of another machine")
    assert read_folder(tmp_path).card.templates == ()
