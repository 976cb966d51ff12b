"""An exported Swin is made and loaded by timm itself, from the folder alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from florence.config.model import Embedding
from florence.errors import ConfigurationError
from florence.models.classifier import classifier_of
from florence.models.exporting.timm_swin import central_table, timm_files, timm_name
from florence.models.importing.assemble import import_model
from florence.models.importing.settings import ImportSettings
from florence.models.stored import StoredModel, two_tower_of
from tests.florence.models.exporting.small_exports import LABELS, classifier, two_towers
from tests.florence.models.references import reference

SWIN = Embedding.SWIN


def loaded(stored: StoredModel, folder: Path) -> Any:
    for name, content in timm_files(stored).items():
        (folder / name).write_bytes(content)
    timm = reference("timm")
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def images(side: int) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


# With 32 pixels the last stages' maps are smaller than a window.
@torch.no_grad()
@pytest.mark.parametrize("side", [32, 128])
def test_two_towers_become_features_with_a_projection(tmp_path: Path, side: int) -> None:
    stored = two_towers(SWIN, resolution=side)
    theirs, tower = loaded(stored, tmp_path), two_tower_of(stored).image
    given = images(side)
    torch.testing.assert_close(theirs(given), tower(given), rtol=0, atol=1e-5)
    features = theirs.forward_head(theirs.forward_features(given), pre_logits=True)
    torch.testing.assert_close(features, tower.features(given), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_classifier_keeps_its_classes_and_how_images_are_made(tmp_path: Path) -> None:
    stored = classifier(SWIN, resolution=128)
    theirs = loaded(stored, tmp_path)
    given = images(128)
    torch.testing.assert_close(theirs(given), classifier_of(stored)(given), rtol=0, atol=1e-5)
    data = reference("timm.data").resolve_model_data_config(theirs)
    assert (data["input_size"], data["crop_pct"], data["interpolation"]) == (
        (3, 128, 128),
        1.0,
        "bicubic",
    )
    assert [*data["mean"], *data["std"]] == [0.5, 0.5, 0.5, 0.2, 0.3, 0.4]
    assert theirs.pretrained_cfg["label_names"] == list(LABELS)


@torch.no_grad()
def test_what_was_exported_can_be_imported_again(tmp_path: Path) -> None:
    stored = two_towers(SWIN, resolution=128)
    (tmp_path / "m.safetensors").write_bytes(timm_files(stored)["model.safetensors"])
    back = import_model([tmp_path / "m.safetensors"], ImportSettings(preset="coswin-nano"))
    given = images(128)
    expected = two_tower_of(stored).image.features(given)
    torch.testing.assert_close(back.model.image.features(given), expected, rtol=0, atol=1e-5)


def test_sizes_that_timm_has_a_name_for_get_it() -> None:
    stored = two_towers(SWIN)
    assert json.loads(timm_files(stored)["config.json"])["architecture"].startswith("swin_tiny")
    image = stored.card.architecture.image
    assert timm_name(image, 4) is None
    base = image.model_copy(update={"width": 128, "depths": (2, 2, 18, 2), "heads": (4, 8, 16, 32)})
    assert timm_name(base, 7) == "swin_base_patch4_window7_224"
    assert timm_name(base, 12) == "swin_base_patch4_window12_384"
    assert timm_name(base, 8) is None


def test_the_middle_of_a_table_is_that_of_a_smaller_window() -> None:
    """A row holds the offset that it is for: offsets of -1 to 1 are what a window of 2 has."""
    offsets = torch.cartesian_prod(torch.arange(-3, 4), torch.arange(-3, 4))
    wanted = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    assert torch.equal(central_table(offsets, 2), wanted)
    assert torch.equal(central_table(offsets, 4), offsets)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (two_towers(), r"runs/m: --format timm needs a Swin.* are convolutions.*--format onnx"),
        (classifier(SWIN, hidden=8), r"linear classifier, and this one has a hidden layer"),
        (two_towers(SWIN, resolution=112), r"windows tile.*112 pixels.*28, 14, 7, 3.*have 4"),
        (two_towers(SWIN, resolution=100), r"windows tile"),
        (two_towers(SWIN, task="detection"), r"task 'detection', whose head timm has not"),
    ],
)
def test_what_timm_has_not_is_refused_with_the_reason(stored: StoredModel, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        timm_files(stored)
    assert (caught.value.exit_code, str(caught.value).count("\n")) == (2, 0)
