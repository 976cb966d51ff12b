"""CoSwin with Swin's embeddings equals three independent implementations of Swin (test C4)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from florence.config import Attention, Embedding, ImageTower
from florence.models.image import CoSwin
from florence.models.window_resize import resize_windows
from tests.florence.models.references import randomise, reference

CLASSES = 10
DEPTHS = (2, 2, 6, 2)
HEADS = (3, 6, 12, 24)


def swin_tiny(window: int, attention: Attention = Attention.AUTO) -> CoSwin:
    config = ImageTower(
        width=96,
        depths=DEPTHS,
        heads=HEADS,
        window=window,
        embedding=Embedding.SWIN,
        attention=attention,
    )
    return CoSwin(config, CLASSES).eval()


def ours_from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names are ours, but for the classifier, which stands where ours projects."""
    return {name.replace("head.fc.", "projection."): value for name, value in state.items()}


def ours_from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's names to ours: ``features`` alternates embeddings and stages."""
    result = {}
    for name, value in state.items():
        if name.endswith("relative_position_index"):
            continue
        if name.startswith("features."):
            _, number, rest = name.split(".", 2)
            if number == "0":
                rest = rest.replace("0.", "proj.", 1).replace("2.", "norm.", 1)
                name = f"patch_embed.{rest}"
            elif int(number) % 2 == 0:
                name = f"layers.{int(number) // 2}.downsample.{rest}"
            else:
                name = f"layers.{int(number) // 2}.blocks.{rest}"
        name = name.replace("head.", "projection.")
        name = name.replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        result[name] = value
    return result


def ours_from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """transformers' names to ours: it merges at the end of a stage and splits q, k and v."""
    names = {
        "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
        "embeddings.norm.": "patch_embed.norm.",
        ".relative_position_bias.": ".",
        "attention.o_proj.": "attn.proj.",
        "attention.": "attn.",
        "layernorm_before.": "norm1.",
        "layernorm_after.": "norm2.",
        "layernorm.": "norm.",
    }
    result = {}
    for name, value in state.items():
        if name.endswith("relative_position_index") or ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            value = torch.cat([state[name.replace("q_proj", part + "_proj")] for part in "qkv"])
            name = name.replace("q_proj", "qkv")
        if name.startswith("encoder.layers."):
            _, _, stage, rest = name.split(".", 3)
            if rest.startswith("downsample."):
                name = f"layers.{int(stage) + 1}.{rest}"
            else:
                name = f"layers.{stage}.{rest}"
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        result[name] = value
    return result


def load(model: CoSwin, state: dict[str, Tensor]) -> None:
    """Load every parameter but the projection, which is ours alone (Swin's head has a bias)."""
    state = {name: value for name, value in state.items() if not name.startswith("projection.")}
    assert set(state) == set(model.state_dict()) - {"projection.weight"}
    model.load_state_dict(state, strict=False)


def assert_close(actual: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item()
    assert scale > 0.5, "a reference of zeros would prove nothing"
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * max(1.0, scale / 4))


def timm_swin(size: int, window: int) -> nn.Module:
    timm = reference("timm")
    model: nn.Module = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=size,
        window_size=window,
        num_classes=CLASSES,
        drop_path_rate=0.0,
    )
    randomise(model)
    return model.eval()


@pytest.mark.parametrize(
    "attention", [Attention.MATH, pytest.param(Attention.SDPA, marks=pytest.mark.slow)]
)
def test_equals_timm_in_features_and_gradients(attention: Attention) -> None:
    theirs, model = timm_swin(224, 7), swin_tiny(7, attention)
    load(model, ours_from_timm(theirs.state_dict()))
    ours_in = torch.randn(1, 3, 224, 224, requires_grad=True)
    theirs_in = ours_in.detach().clone().requires_grad_()
    ours_out = model.features(ours_in)
    theirs_out = theirs.forward_head(theirs.forward_features(theirs_in), pre_logits=True)
    assert_close(ours_out, theirs_out)

    direction = torch.randn_like(ours_out)
    (ours_out * direction).sum().backward()
    (theirs_out * direction).sum().backward()
    ours_grads = {name: parameter.grad for name, parameter in model.named_parameters()}
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, expected in ours_from_timm(grads).items():  # type: ignore[arg-type]
        if not name.startswith("projection."):
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                ours_grads[name], expected, rtol=0, atol=2e-5 * scale, msg=name
            )
    assert ours_in.grad is not None
    assert theirs_in.grad is not None
    torch.testing.assert_close(ours_in.grad, theirs_in.grad, rtol=0, atol=1e-4)


def test_equals_timm_with_its_classifier() -> None:
    theirs, model = timm_swin(224, 7), swin_tiny(7)
    model.load_state_dict(ours_from_timm(theirs.state_dict()), strict=False)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(model(images) + theirs.head.fc.bias, theirs(images))


def test_equals_timm_after_a_change_of_window_from_7_to_12() -> None:
    """timm resizes the tables by its own bicubic function, and the two models agree at 384."""
    small, large = timm_swin(224, 7), timm_swin(384, 12)
    layers = reference("timm.layers")
    state = small.state_dict()
    tables = {
        name: layers.resize_rel_pos_bias_table_simple(value, (12, 12), (23 * 23, value.shape[1]))
        for name, value in state.items()
        if name.endswith("bias_table")
    }
    assert len(tables) == sum(DEPTHS)
    large.load_state_dict(state | tables)
    model = swin_tiny(12)
    load(model, resize_windows(ours_from_timm(state), model))
    images = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        theirs_out = large.forward_head(large.forward_features(images), pre_logits=True)
        assert_close(model.features(images), theirs_out)


@pytest.mark.parametrize("size", [pytest.param((224, 224), marks=pytest.mark.slow), (240, 272)])
def test_equals_torchvision(size: tuple[int, int]) -> None:
    """Also on maps that windows do not tile, where torchvision pads them too."""
    models = reference("torchvision.models")
    theirs = models.swin_t(num_classes=CLASSES)
    randomise(theirs)
    theirs.eval()
    model = swin_tiny(7)
    load(model, ours_from_torchvision(theirs.state_dict()))
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = theirs.norm(theirs.features(images)).mean((1, 2))
        assert_close(model.features(images), expected)


@pytest.mark.slow
def test_equals_transformers() -> None:
    transformers = reference("transformers")
    config = transformers.SwinConfig(depths=DEPTHS, num_heads=HEADS, embed_dim=96, window_size=7)
    theirs = transformers.SwinModel(config, add_pooling_layer=False)
    randomise(theirs)
    theirs.eval()
    model = swin_tiny(7)
    load(model, ours_from_transformers(theirs.state_dict()))
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert_close(model.features(images), theirs(images).last_hidden_state.mean(1))
