"""Models of timm, open_clip and UniCL give here what they give there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from florence.config import Activation, Embedding, architecture_of
from florence.errors import ConfigurationError, DataError
from florence.models.importing.assemble import (
    ImportedModel,
    import_model,
    read_part,
    resize_positions,
)
from florence.models.importing.settings import ImportSettings
from florence.models.stored import model_bytes, read_stored, two_tower_of
from florence.models.two_tower import build_model
from tests.florence.models.importing.foreign import (
    CONTEXT,
    DEPTHS,
    EMBED,
    HEADS,
    WIDTH,
    as_released_swin,
    clip_text,
    open_clip_swin,
    swin,
    swin_features,
    texts,
    unicl,
)
from tests.florence.models.references import randomise, reference


def bring(*sources: Path, **settings: Any) -> ImportedModel:
    return import_model(sources, ImportSettings(preset="coswin-nano", **settings))


def write(path: Path, state: dict[str, Tensor]) -> Path:
    save_file({name: value.clone().contiguous() for name, value in state.items()}, path)
    return path


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    assert scale > 0.1, "a reference of zeros would prove nothing"
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, scale / 4))


@pytest.fixture(scope="module")
def timm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("timm") / "swin.safetensors", swin().state_dict())


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clip") / "text.safetensors", clip_text().state_dict())


@torch.no_grad()
def test_timms_tiny_swin_gives_equal_features(tmp_path: Path) -> None:
    timm = reference("timm")
    theirs = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False)
    randomise(theirs)
    theirs.eval()
    torch.save(theirs.state_dict(), tmp_path / "swin.pth")
    imported = bring(tmp_path / "swin.pth")
    image = imported.card.architecture.image
    expected = architecture_of("coswin-t").image
    assert image == expected.model_copy(update={"embedding": Embedding.SWIN})
    assert (imported.card.window, imported.card.resolution) == (7, 224)
    images = torch.randn(1, 3, 224, 224)
    assert_equal(imported.model.image.features(images), swin_features(theirs, images))
    unused = [name.rpartition(" ")[2] for name in imported.report.unused]
    assert unused == ["head.fc.weight", "head.fc.bias"]
    # The text tower and our projection are what the seed says, and are named.
    fresh = build_model(imported.card.architecture, seed=0).state_dict()
    assert set(imported.report.fresh) == {
        name
        for name in fresh
        if name.startswith("text.") or name in ("logit_scale", "image.projection.weight")
    }
    state = imported.model.state_dict()
    assert all(torch.equal(state[name], fresh[name]) for name in imported.report.fresh)


@torch.no_grad()
def test_swins_release_names_are_read(tmp_path: Path) -> None:
    theirs = swin()
    released = as_released_swin(theirs.state_dict())
    assert "layers.0.downsample.reduction.weight" in released
    imported = bring(write(tmp_path / "swin.safetensors", released))
    image = imported.card.architecture.image
    assert (image.width, image.depths, image.heads, image.window) == (16, DEPTHS, HEADS, 4)
    assert imported.report.unused == ()
    images = torch.randn(2, 3, 128, 128)
    assert_equal(imported.model.image.features(images), swin_features(theirs, images))


@torch.no_grad()
def test_windows_are_resized_as_timm_resizes_them(timm_file: Path) -> None:
    large, state = swin(side=192, window=6), swin().state_dict()
    layers = reference("timm.layers")
    tables = {
        name: layers.resize_rel_pos_bias_table_simple(value, (6, 6), (121, value.shape[1]))
        for name, value in state.items()
        if name.endswith("bias_table")
    }
    large.load_state_dict(state | tables)
    imported = bring(timm_file, window=6)
    assert imported.card.window == imported.card.architecture.image.window == 6
    assert imported.card.resolution == 192
    assert set(imported.report.resized) == {f"image.{name}" for name in tables}
    images = torch.randn(1, 3, 192, 192)
    assert_equal(imported.model.image.features(images), swin_features(large, images))


@torch.no_grad()
def test_a_stage_whose_map_was_smaller_than_a_window_is_resized(tmp_path: Path) -> None:
    """timm's tables of a last stage of 3 x 3 tokens belong to windows of 3."""
    path = write(tmp_path / "swin.safetensors", swin(side=96).state_dict())
    imported = bring(path)
    assert imported.card.window == 4
    table = "image.layers.3.blocks.0.attn.relative_position_bias_table"
    assert imported.report.resized == (table,)
    assert imported.model.state_dict()[table].shape == (49, 8)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "text.", "module.", "module.text."])
def test_open_clips_text_tower_gives_equal_embeddings(tmp_path: Path, prefix: str) -> None:
    theirs = clip_text()
    state = {f"{prefix}{name}": value for name, value in theirs.state_dict().items()}
    imported = bring(write(tmp_path / "text.safetensors", state))
    text = imported.card.architecture.text
    assert (text.width, text.layers, text.heads, text.hidden) == (WIDTH, 2, 1, 4 * WIDTH)
    assert (text.context, imported.card.architecture.embed_dim) == (CONTEXT, EMBED)
    assert_equal(imported.model.text(texts()), theirs(texts()))
    assert imported.report.unused == ()
    assert all(name.startswith(("image.", "logit_scale")) for name in imported.report.fresh)


@torch.no_grad()
def test_the_activation_and_heads_are_what_the_user_says(tmp_path: Path) -> None:
    path = write(tmp_path / "text.safetensors", clip_text(quick=True).state_dict())
    imported = bring(path, activation="quick_gelu")
    assert_equal(imported.model.text(texts()), clip_text(quick=True)(texts()))
    assert bring(path, text_heads=4).card.architecture.text.heads == 4
    with pytest.raises(DataError, match=r"text\.safetensors: .*heads=5 does not divide width=64"):
        bring(path, text_heads=5)


@torch.no_grad()
def test_an_image_and_a_text_checkpoint_become_one_model(
    timm_file: Path, clip_file: Path, tmp_path: Path
) -> None:
    imported = bring(timm_file, clip_file, seed=5, mean=(0.1, 0.2, 0.3))
    assert set(imported.report.fresh) == {"image.projection.weight", "logit_scale"}
    fresh = build_model(imported.card.architecture, seed=5)
    assert torch.equal(imported.model.image.projection.weight, fresh.image.projection.weight)
    images = torch.randn(1, 3, 128, 128)
    assert_equal(imported.model.image.features(images), swin_features(swin(), images))
    assert_equal(imported.model.text(texts()), clip_text()(texts()))
    assert imported.card.mean == (0.1, 0.2, 0.3)
    assert imported.card.std == (0.229, 0.224, 0.225)
    # The files are a model like any other.
    files = model_bytes(imported.model.state_dict(), imported.card)
    loaded = two_tower_of(read_stored(files.__getitem__, "x"))
    for one, other in zip(loaded(images, texts()), imported.model(images, texts()), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_a_whole_open_clip_model_on_a_swin_gives_equal_embeddings(tmp_path: Path) -> None:
    theirs: Any = open_clip_swin()
    imported = bring(write(tmp_path / "clip.safetensors", theirs.state_dict()))
    assert imported.report.fresh == imported.report.unused == ()
    images = torch.randn(1, 3, 224, 224)
    u, v, logit_scale = imported.model(images, texts())
    assert_equal(u, theirs.encode_image(images, normalize=True))
    assert_equal(v, theirs.encode_text(texts(), normalize=True))
    assert logit_scale.item() == theirs.logit_scale.item()
    assert imported.card.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))


@torch.no_grad()
@pytest.mark.parametrize("old", [False, True])
def test_a_unicl_model_gives_equal_embeddings(tmp_path: Path, old: bool) -> None:
    """Made of timm's Swin and open_clip's text tower with UniCL's activation and norms."""
    image, text = swin(), clip_text(quick=True, eps=1e-12)
    projection, logit_scale = torch.randn(128, EMBED), torch.tensor(3.5)
    state = unicl(image, text, projection, logit_scale, old=old)
    torch.save({"model": state, "epoch": 3}, tmp_path / "unicl.pth")

    imported = bring(tmp_path / "unicl.pth")
    assert imported.report.fresh == imported.report.unused == ()
    assert imported.report.resized == ()
    tower = imported.card.architecture.text
    assert (tower.activation, tower.norm_eps) == (Activation.QUICK_GELU, 1e-12)
    images = torch.randn(2, 3, 128, 128)
    u, v, scale = imported.model(images, texts())
    assert_equal(u, F.normalize(swin_features(image, images) @ projection, dim=-1))
    assert_equal(v, F.normalize(text(texts()), dim=-1))
    assert scale.item() == 3.5


def test_the_norms_epsilon_matters(tmp_path: Path, clip_file: Path) -> None:
    """Small residuals, as at the start of training: 1e-5 and 1e-12 are different models."""
    model = bring(clip_file).model
    with torch.no_grad():
        for parameter in (model.text.token_embedding.weight, model.text.positional_embedding):
            parameter.mul_(1e-3)
        one = model.text(texts())
        for module in model.text.modules():
            if isinstance(module, torch.nn.LayerNorm):
                assert module.eps == 1e-5
                module.eps = 1e-12
        assert (model.text(texts()) - one).abs().max() > 1e-2


def test_positions_are_resized_and_told(clip_file: Path) -> None:
    imported = bring(clip_file, context=12)
    assert imported.card.architecture.text.context == 12
    assert imported.report.resized == ("text.positional_embedding",)
    assert imported.model.text.positional_embedding.shape == (12, WIDTH)


def test_resized_positions_are_interpolated_linearly() -> None:
    rows = torch.arange(20.0)[:, None] * torch.tensor([1.0, -2.0])
    resized = resize_positions(rows, 40)
    centres = ((torch.arange(40) + 0.5) / 2 - 0.5).clamp(0, 19)
    torch.testing.assert_close(resized, centres[:, None] * torch.tensor([1.0, -2.0]))
    assert resize_positions(rows, 20) is rows


def test_every_tensor_that_does_not_fit_is_named(tmp_path: Path) -> None:
    state = swin().state_dict()
    state["norm.weight"] = torch.ones(7)
    state["layers.1.blocks.0.gamma"] = torch.ones(1)
    del state["norm.bias"]
    path = write(tmp_path / "swin.safetensors", state)
    report = bring(path).report
    assert report.misfits == {"image.norm.weight": "(7,) instead of (128,)"}
    assert report.unused == (f"{path}: image.layers.1.blocks.0.gamma",)
    assert "image.norm.bias" in report.fresh
    # A length of embedding that is not the projection's leaves the projection fresh.
    text = write(tmp_path / "text.safetensors", clip_text().state_dict())
    assert list(bring(text, embed_dim=8).report.misfits) == ["text.text_projection"]


def test_what_cannot_be_imported_is_refused(timm_file: Path, tmp_path: Path) -> None:
    def refused(state: dict[str, Tensor], message: str) -> None:
        with pytest.raises(DataError, match=message):
            read_part(write(tmp_path / "x.safetensors", state), ImportSettings())

    with pytest.raises(DataError, match=r"swin\.safetensors and /.*swin\.safetensors both have "):
        bring(timm_file, timm_file)
    with pytest.raises(ConfigurationError, match="unknown preset 'none'"):
        import_model([timm_file], ImportSettings(preset="none"))
    refused(
        {"fc.weight": torch.ones(1)}, r"x\.safetensors: neither a Swin .* begin with 'fc\.weight'"
    )
    state = swin().state_dict()
    refused(state | {"absolute_pos_embed": torch.ones(1)}, "absolute positions")
    refused(state | {"patch_embed.proj.weight": torch.ones(16, 3, 2, 2)}, r"\(3, 2, 2\)")
    refused({n: v for n, v in state.items() if not n.startswith("layers.3")}, "3 stages")
    text = clip_text().state_dict()
    refused(text | {"token_embedding.weight": torch.ones(99, WIDTH)}, "text tower of 99 tokens")
    refused(
        {n: v for n, v in text.items() if n != "positional_embedding"}, "'positional_embedding'"
    )
    refused({"image_projection": torch.ones(2, 2), "image_encoder.x": torch.ones(1)}, "no Swin")
