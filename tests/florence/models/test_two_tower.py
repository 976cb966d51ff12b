"""Both towers together: sizes, seeds, and what the optimizer is told."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from florence.config import PRESETS, ActivationCheckpointing, Architecture, architecture_of
from florence.models.two_tower import TwoTower, build_model, no_decay_names

NANO = architecture_of("coswin-nano")


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(architecture: Architecture) -> TwoTower:
    with torch.device("meta"):
        return TwoTower(architecture)


def image_parameters(architecture: Architecture) -> int:
    """The formula of science.md section 4, projection included."""
    image, total = architecture.image, 0
    for stage, (depth, heads) in enumerate(zip(image.depths, image.heads, strict=True)):
        kernel, channels = (7, 3) if stage == 0 else (3, image.width << (stage - 1))
        width = image.width << stage
        total += kernel**2 * channels * width + 3 * width
        total += depth * (12 * width**2 + 13 * width + (2 * image.window - 1) ** 2 * heads)
    return total + 2 * 8 * image.width + 8 * image.width * architecture.embed_dim


def text_parameters(architecture: Architecture) -> int:
    text = architecture.text
    width, hidden = text.width, text.hidden
    blocks = text.layers * (4 * width**2 + 2 * width * hidden + 9 * width + hidden)
    embeddings = (text.vocabulary + text.context) * width
    return blocks + embeddings + 2 * width + width * architecture.embed_dim


@pytest.mark.parametrize(
    ("preset", "millions"),
    [
        ("coswin-nano", 1.66),
        ("coswin-t", 29.86),
        ("coswin-s", 51.17),
        ("coswin-b", 90.72),
        ("coswin-l", 203.93),
        ("coswin-h", 639.47),
        ("coswin-h64", 639.37),
    ],
)
def test_parameter_counts_are_those_of_the_formula_and_the_table(
    preset: str, millions: float
) -> None:
    """Test C2."""
    architecture = architecture_of(preset)
    model = on_meta(architecture)
    assert parameters(model.image) == image_parameters(architecture)
    assert parameters(model.text) == text_parameters(architecture)
    assert parameters(model) == parameters(model.image) + parameters(model.text) + 1
    assert parameters(model.image) / 1e6 == pytest.approx(millions, abs=0.006)


def test_every_preset_is_in_the_table() -> None:
    assert len(PRESETS) == 7


@pytest.mark.parametrize("preset", ["coswin-h", "coswin-h64"])
def test_the_huge_model_has_the_papers_size(preset: str) -> None:
    """The paper: 637M and 256M, 893M together; its counts are of the towers without projections."""
    model = on_meta(architecture_of(preset))
    image = parameters(model.image) - parameters(model.image.projection)
    text = parameters(model.text) - model.text.text_projection.numel()
    assert image == pytest.approx(637e6, rel=1e-3)
    assert text == pytest.approx(256e6, rel=5e-3)
    assert image + text == pytest.approx(893e6, rel=5e-3)


def test_a_seed_decides_every_weight_whatever_the_global_state() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = build_model(NANO, seed=3).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = build_model(NANO, seed=3, checkpointing=ActivationCheckpointing.FULL).state_dict()
    other = build_model(NANO, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    random = [name for name in first if not torch.equal(first[name], other[name])]
    assert set(random) == {name for name, value in first.items() if value.ndim > 1}


def test_a_model_to_be_overwritten_is_nothing_but_nan_and_draws_nothing() -> None:
    model = build_model(NANO, seed=3, window=6, init=False)
    expected = build_model(NANO, seed=3, window=6)
    shapes = {name: value.shape for name, value in expected.state_dict().items()}
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert all(parameter.isnan().all() for parameter in model.parameters())
    model.load_state_dict(expected.state_dict())
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(model.encode_image(images), expected.encode_image(images))


def test_initial_weights_have_their_deviations() -> None:
    model = build_model(NANO, seed=0)
    width, layers = NANO.text.width, NANO.text.layers
    block, swin = model.text.transformer.resblocks[0], model.image.layers[3].blocks[0]
    deviations = {
        model.text.token_embedding.weight: 0.02,
        model.text.positional_embedding: 0.01,
        block.attn.in_proj_weight: width**-0.5,
        block.attn.out_proj.weight: (2 * layers * width) ** -0.5,
        block.mlp.c_fc.weight: (2 * width) ** -0.5,
        block.mlp.c_proj.weight: (2 * layers * width) ** -0.5,
        model.text.text_projection: width**-0.5,
        swin.attn.qkv.weight: 0.02,
        swin.attn.proj.weight: 0.02,
        swin.attn.relative_position_bias_table: 0.02,
        swin.mlp.fc1.weight: 0.02,
        swin.mlp.fc2.weight: 0.02,
        model.image.layers[1].downsample.proj.weight: 0.02,
        model.image.projection.weight: 0.02,
    }
    for weight, deviation in deviations.items():
        assert weight.std().item() == pytest.approx(deviation, rel=0.12)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()
            assert module.eps == 1e-5
        elif isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
            assert module.bias.eq(0).all()


def test_embeddings_have_unit_length_and_the_scale_is_a_vector() -> None:
    model = build_model(NANO, seed=0, temperature=0.05)
    ids = torch.tensor([[49406, 320, 49407, 0], [49406, 1125, 539, 49407]])
    u, v, logit_scale = model(torch.randn(3, 3, 64, 64), ids)
    assert u.shape == (3, 64)
    assert v.shape == (2, 64)
    for embedding in (u, v):
        assert embedding.dtype is torch.float32
        torch.testing.assert_close(embedding.norm(dim=-1), torch.ones(len(embedding)))
    assert logit_scale.shape == (1,)
    assert logit_scale.item() == pytest.approx(math.log(1 / 0.05))
    assert logit_scale is not model.logit_scale
    (u.sum() + v.sum() + logit_scale.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_one_tower_alone() -> None:
    model = build_model(NANO, seed=0).eval()
    images, ids = torch.randn(2, 3, 64, 64), torch.tensor([[49406, 49407]])
    u, nothing, _ = model(images=images)
    assert nothing is None
    assert torch.equal(u, model.encode_image(images))
    nothing, v, _ = model(input_ids=ids)
    assert nothing is None
    assert torch.equal(v, model.encode_text(ids))


def test_embeddings_stay_float32_under_autocast() -> None:
    model = build_model(NANO, seed=0).eval()
    images, ids = torch.randn(2, 3, 64, 64), torch.tensor([[49406, 320, 49407]])
    with torch.no_grad():
        exact = model(images, ids)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = model(images, ids)
    for one, other in zip(exact[:2], rounded[:2], strict=True):
        assert other.dtype is torch.float32
        assert (one * other).sum(-1).min() > 0.999


def test_weight_decay_spares_vectors_tables_and_positions() -> None:
    model = on_meta(NANO)
    spared = no_decay_names(model)
    decayed = {name for name, _ in model.named_parameters()} - spared
    assert {name.rsplit(".", 1)[-1] for name in decayed} == {
        "weight",
        "in_proj_weight",
        "text_projection",
    }
    assert not any("norm" in name for name in decayed)
    assert "text.token_embedding.weight" in decayed
    assert "image.patch_embed.proj.weight" in decayed
    for name in (
        "logit_scale",
        "text.positional_embedding",
        "text.ln_final.weight",
        "image.layers.2.blocks.1.attn.relative_position_bias_table",
        "image.layers.2.blocks.1.attn.qkv.bias",
    ):
        assert name in spared


def test_window_and_drop_path_override_the_architecture() -> None:
    model = build_model(NANO, seed=0, window=8, drop_path=0.3)
    assert model.image.window == 8
    assert model.image.layers[0].blocks[0].attn.relative_position_bias_table.shape == (15 * 15, 2)
    assert model.image.layers[3].blocks[0].drop == pytest.approx(0.3)
    assert model.architecture == NANO
