"""The image tower: shapes, sizes, cost, and what must not change its result."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from florence.config import (
    ActivationCheckpointing,
    Attention,
    Embedding,
    ImageTower,
    architecture_of,
)
from florence.models.image import CoSwin, SwinBlock
from florence.models.windows import WindowGrid
from tests.florence.models.references import randomise

NANO = architecture_of("coswin-nano").image
EMBED = 16


def nano(**changes: Any) -> CoSwin:
    window = changes.pop("window", None)
    model = CoSwin(NANO.model_copy(update=changes), EMBED, window=window)
    randomise(model)
    return model


def multiply_adds(config: ImageTower, resolution: int, window: int) -> int:
    """Of one image: sum over stages of T [k² C_in C + d (12 C² + 2 M² C)], T tokens, d blocks."""
    total = 0
    for stage, depth in enumerate(config.depths):
        kernel, channels = (7, 3) if stage == 0 else (3, config.width << (stage - 1))
        width, side = config.width << stage, resolution >> (stage + 2)
        attended = min(window, side) ** 2
        total += side**2 * (
            kernel**2 * channels * width + depth * (12 * width**2 + 2 * attended * width)
        )
    return total


@pytest.mark.parametrize(
    ("resolution", "window", "sides"),
    [
        (224, 7, [56, 28, 14, 7]),
        (384, 12, [96, 48, 24, 12]),
        (512, 16, [128, 64, 32, 16]),
        (97, 4, [24, 12, 6, 3]),
        (225, 7, [56, 28, 14, 7]),
        (30, 4, [7, 4, 2, 1]),
    ],
)
def test_maps_shrink_four_fold_and_then_two_fold(
    resolution: int, window: int, sides: list[int]
) -> None:
    """Test C1."""
    with torch.device("meta"):
        model = CoSwin(NANO, EMBED, window=window)
        maps = model.feature_maps(torch.empty(2, 3, resolution, resolution))
    assert [tuple(one.shape) for one in maps] == [
        (2, NANO.width << stage, side, side) for stage, side in enumerate(sides)
    ]


@pytest.mark.parametrize("size", [(64, 64), (63, 50), (8, 8), (3, 200), (100, 7)])
@pytest.mark.parametrize("embedding", list(Embedding))
def test_any_size_is_embedded(size: tuple[int, int], embedding: Embedding) -> None:
    model = nano(embedding=embedding)
    images = torch.randn(2, 3, *size)
    out = model(images)
    assert out.shape == (2, EMBED)
    assert out.isfinite().all()
    alone = model(images[1:])
    torch.testing.assert_close(out[1:], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("resolution", "window"), [(64, 4), (128, 4), (128, 8)])
def test_cost_formula_is_exact(resolution: int, window: int) -> None:
    """Test C2's multiply-adds, counted by torch on the model itself."""
    model = nano(attention=Attention.MATH, window=window)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.features(torch.randn(1, 3, resolution, resolution))
    assert counter.get_total_flops() == 2 * multiply_adds(NANO, resolution, window)


@pytest.mark.parametrize(
    ("preset", "resolution", "window", "giga"),
    [
        ("coswin-t", 224, 7, 4.74),
        ("coswin-s", 224, 7, 8.99),
        ("coswin-b", 384, 12, 48.33),
        ("coswin-l", 512, 16, 195.05),
        ("coswin-h", 224, 7, 87.51),
        ("coswin-h", 384, 12, 261.55),
        ("coswin-h", 512, 16, 474.14),
        ("coswin-h64", 224, 7, 87.51),
    ],
)
def test_cost_formula_gives_the_published_table(
    preset: str, resolution: int, window: int, giga: float
) -> None:
    cost = multiply_adds(architecture_of(preset).image, resolution, window)
    assert cost / 1e9 == pytest.approx(giga, abs=0.006)


def test_features_are_the_mean_of_the_normalised_last_map() -> None:
    """Test C7."""
    model = nano().eval()
    images = torch.randn(3, 3, 64, 96)
    last = model.feature_maps(images)[-1]
    tokens = torch.stack(
        [last[:, :, y, x] for y in range(last.shape[2]) for x in range(last.shape[3])]
    )
    expected = model.norm(tokens).mean(dim=0)
    torch.testing.assert_close(model.features(images), expected)
    torch.testing.assert_close(model(images), expected @ model.projection.weight.t())


@pytest.mark.parametrize("shifted", [False, True])
def test_padding_is_zeros_and_the_result_does_not_depend_on_what_lies_outside(
    shifted: bool,
) -> None:
    """Test C8: equals the same computed step by step on an explicitly padded map."""
    block = SwinBlock(NANO, 32, 2, 4, drop=0.0, checkpointing=ActivationCheckpointing.NONE)
    randomise(block)
    grid = WindowGrid.fit(6, 9, 4, shifted=shifted)
    surroundings = torch.randn(2, 10, 15, 32)
    surroundings[:, 6:] = torch.nan
    surroundings[:, :, 9:] = torch.nan
    inside = surroundings[:, :6, :9]
    out = block(inside.reshape(2, 54, 32), grid)
    assert out.isfinite().all()

    tiled = WindowGrid.fit(8, 12, 4, shifted=shifted)
    normalised = torch.zeros(2, 8, 12, 32)
    normalised[:, :6, :9] = block.norm1(inside)
    rolled = normalised.roll((-tiled.shift_height, -tiled.shift_width), (1, 2))
    windows = rolled.view(2, 2, 4, 3, 4, 32).transpose(2, 3).reshape(2, 96, 32)
    attended = block.attn(windows, tiled).view(2, 2, 3, 4, 4, 32).transpose(2, 3)
    attended = attended.reshape(2, 8, 12, 32)
    attended = attended.roll((tiled.shift_height, tiled.shift_width), (1, 2))[:, :6, :9]
    x = inside + attended
    expected = (x + block.mlp(block.norm2(x))).reshape(2, 54, 32)
    torch.testing.assert_close(out, expected)


def test_a_shifted_block_sees_across_the_borders_of_unshifted_windows() -> None:
    """Information of one token reaches beyond its own window, but only through shifted blocks."""

    def reached(depths: tuple[int, int, int, int]) -> int:
        model = nano(depths=depths).eval()
        images = torch.randn(1, 3, 64, 64)
        tokens = model.patch_embed(images.permute(0, 2, 3, 1)).detach().requires_grad_()
        model.layers[0](tokens)[0, 0, 0].sum().backward()
        assert tokens.grad is not None
        return int((tokens.grad.abs().sum(-1) > 0).sum())

    assert reached((1, 1, 1, 1)) == 4 * 4
    # Windows of the second block end at rows 2 and 6, those of the first at 4 and 8.
    assert reached((3, 1, 1, 1)) == 8 * 8


def test_a_model_trains_at_a_size_it_first_met_in_inference_mode() -> None:
    """What is kept by size must not be an inference tensor."""
    model = nano()
    images = torch.randn(1, 3, 208, 144)
    with torch.inference_mode():
        model(images)
    model(images).sum().backward()
    assert model.layers[0].blocks[0].attn.relative_position_bias_table.grad is not None


@pytest.mark.parametrize(
    "checkpointing", [ActivationCheckpointing.SELECTIVE, ActivationCheckpointing.FULL]
)
@pytest.mark.parametrize("size", [64, 50])
def test_checkpointing_changes_no_bit_of_the_gradients(
    checkpointing: ActivationCheckpointing, size: int
) -> None:
    """With drop path: the recomputed pass drops the very same samples."""
    config = NANO.model_copy(update={"drop_path": 0.5})
    images = torch.randn(8, 3, size, size)

    def gradients(kind: ActivationCheckpointing) -> tuple[Tensor, list[Tensor]]:
        model = CoSwin(config, EMBED, checkpointing=kind)
        randomise(model)
        torch.manual_seed(7)
        out = model(images)
        return out, list(torch.autograd.grad(out.square().sum(), list(model.parameters())))

    plain_out, plain = gradients(ActivationCheckpointing.NONE)
    out, recomputed = gradients(checkpointing)
    assert torch.equal(plain_out, out)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))


def test_checkpointing_keeps_fewer_activations() -> None:
    images = torch.randn(4, 3, 64, 64)

    def kept(kind: ActivationCheckpointing) -> int:
        model = CoSwin(NANO, EMBED, checkpointing=kind)
        weights = {parameter.data_ptr() for parameter in model.parameters()}
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(images)
        assert out.requires_grad
        return sum(sizes.values())

    none, selective, full = (
        kept(kind)
        for kind in (
            ActivationCheckpointing.NONE,
            ActivationCheckpointing.SELECTIVE,
            ActivationCheckpointing.FULL,
        )
    )
    assert full < 0.5 * selective
    assert selective < 0.8 * none


def test_drop_path_rises_linearly_and_keeps_the_mean() -> None:
    model = CoSwin(NANO, EMBED, drop_path=0.4)
    drops = [block.drop for stage in model.layers for block in stage.blocks]
    assert drops == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    block = model.layers[3].blocks[0]
    x = torch.randn(1, 4, 256).expand(4000, 4, 256)
    grid = WindowGrid.fit(2, 2, 4, shifted=False)
    with torch.no_grad():
        torch.manual_seed(0)
        change = block(x, grid, block.drop_mask(x)) - x
        block.eval()
        assert block.drop_mask(x) is None
        expected = (block(x[:1], grid) - x[:1])[0]
    untouched = (change.abs().sum((1, 2)) == 0).float().mean()
    assert untouched.item() == pytest.approx(0.4**2, abs=0.03)
    assert ((change.mean(0) - expected).norm() / expected.norm()).item() < 0.1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_keeps_the_direction(dtype: torch.dtype) -> None:
    """Test C6."""
    model = nano().eval()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        exact = model(images)
        for attention in (Attention.MATH, Attention.SDPA):
            for module in model.modules():
                if hasattr(module, "implementation"):
                    module.implementation = attention
            with torch.autocast("cpu", dtype=dtype):
                rounded = model(images)
            cosine = nn.functional.cosine_similarity(exact, rounded.float())
            assert cosine.min() > 0.999


@pytest.mark.parametrize(
    ("attention", "size"),
    [
        (Attention.MATH, 64),
        pytest.param(Attention.MATH, 50, marks=pytest.mark.slow),
        pytest.param(Attention.SDPA, 64, marks=pytest.mark.slow),
    ],
)
def test_compiles_as_one_graph_forward_and_backward(attention: Attention, size: int) -> None:
    """No graph break, and the same result; the backend needs no compiler."""
    torch.compiler.reset()
    model = nano(attention=attention)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.randn(2, 3, size, size)
    plain, fused = model(images), compiled(images)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)
    parameters = list(model.parameters())
    for expected, actual in zip(
        torch.autograd.grad(plain.square().sum(), parameters),
        torch.autograd.grad(fused.square().sum(), parameters),
        strict=True,
    ):
        scale = max(1.0, expected.abs().max().item())
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
def test_compiles_with_drop_path_and_checkpointing() -> None:
    torch.compiler.reset()
    model = CoSwin(
        NANO.model_copy(update={"drop_path": 0.2}),
        EMBED,
        checkpointing=ActivationCheckpointing.FULL,
    )
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
