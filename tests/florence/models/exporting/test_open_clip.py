"""An exported model is made and loaded by open_clip itself, from the folder alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from florence.config.model import Activation, Architecture, Embedding, TextTower, architecture_of
from florence.errors import ConfigurationError
from florence.models.exporting.open_clip import open_clip_files
from florence.models.importing.assemble import import_model
from florence.models.importing.settings import ImportSettings
from florence.models.stored import StoredModel, two_tower_of
from florence.models.two_tower import build_model
from tests.florence.models.exporting.small_exports import URI, card, classifier, two_towers
from tests.florence.models.references import randomise, reference


@pytest.fixture(scope="module")
def swin_tiny() -> StoredModel:
    """Swin-T, the smallest that open_clip has, beside a small text tower with UniCL's norms."""
    tower = architecture_of("coswin-t").image.model_copy(update={"embedding": Embedding.SWIN})
    architecture = Architecture(
        image=tower,
        text=TextTower(
            width=48,
            layers=2,
            heads=3,
            hidden=100,
            context=20,
            activation=Activation.QUICK_GELU,
            norm_eps=1e-3,
        ),
        embed_dim=24,
    )
    about = card(architecture=architecture, window=7, resolution=224)
    model = build_model(architecture, seed=0)
    randomise(model)
    return StoredModel(URI, about, dict(model.state_dict()))


@torch.no_grad()
def test_open_clip_loads_it_and_computes_the_same(swin_tiny: StoredModel, tmp_path: Path) -> None:
    open_clip = reference("open_clip")
    reference("timm")
    for name, content in open_clip_files(swin_tiny).items():
        (tmp_path / name).write_bytes(content)
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    model.eval()
    ours = two_tower_of(swin_tiny)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    texts = open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a cat", "a dog on the lawn"])
    u, v, scale = ours(images, texts)
    torch.testing.assert_close(model.encode_image(images, normalize=True), u, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.encode_text(texts, normalize=True), v, rtol=0, atol=1e-5)
    assert model.logit_scale.item() == scale.item()
    normalise = preprocess.transforms[-1]
    assert (normalise.mean, normalise.std) == ([0.5, 0.5, 0.5], [0.2, 0.3, 0.4])
    # And it comes back as it was.
    settings = ImportSettings(text_heads=3, activation=Activation.QUICK_GELU)
    back = import_model([tmp_path / "open_clip_model.safetensors"], settings)
    assert back.report.fresh == back.report.unused == ()
    torch.testing.assert_close(back.model.encode_image(images), u, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("stored", "reason"),
    [
        (classifier(Embedding.SWIN), "two towers, and this one is of task 'classification'"),
        (two_towers(), "needs a Swin, and this image tower's embeddings are convolutions"),
        (two_towers(Embedding.SWIN), "by name, and none has width 32, depths"),
    ],
)
def test_what_open_clip_has_not_is_refused_with_the_reason(
    stored: StoredModel, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        open_clip_files(stored)
    assert (caught.value.exit_code, str(caught.value).count("\n")) == (2, 0)


def test_a_resolution_that_open_clip_does_not_make_is_refused(swin_tiny: StoredModel) -> None:
    about = swin_tiny.card.model_copy(update={"resolution": 448})
    with pytest.raises(ConfigurationError, match="for images of 224 pixels, and this model"):
        open_clip_files(StoredModel(URI, about, swin_tiny.state))
