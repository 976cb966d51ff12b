"""Compiled blocks: the same numbers, whatever changes between steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from florence.config import architecture_of
from florence.models.compilation import compile_blocks
from florence.models.two_tower import TwoTower, build_model

NANO = architecture_of("coswin-nano")


def outcome(model: TwoTower, images: Tensor, ids: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    u, v, scale = model(images, ids)
    assert u is not None
    assert v is not None
    loss = (u @ v.t() * scale.exp()).square().sum()
    return [u, v, *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.slow
def test_training_evaluation_and_other_sizes() -> None:
    """More variants of a block than torch compiles by default, each in one graph."""
    torch.compiler.reset()
    plain, compiled = (build_model(NANO, seed=0, drop_path=0.3) for _ in range(2))
    compile_blocks(compiled, backend="aot_eager")
    for size, length in ((64, 9), (50, 12)):
        images = torch.randn(4, 3, size, size)
        ids = torch.randint(1, NANO.text.vocabulary, (4, length))
        expected, actual = outcome(plain, images, ids), outcome(compiled, images, ids)
        for one, other in zip(expected, actual, strict=True):
            scale = max(1.0, one.abs().max().item())
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * scale)
        for model in (plain, compiled):
            model.eval()
        with torch.no_grad():
            torch.testing.assert_close(
                compiled.encode_image(images), plain.encode_image(images), rtol=0, atol=1e-5
            )
        for model in (plain, compiled):
            model.train()


def test_blocks_of_one_shape_share_their_code() -> None:
    """The eight blocks of stage three have eight drop probabilities and two compiled codes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    image = NANO.image.model_copy(update={"depths": (1, 1, 8, 1), "drop_path": 0.5})
    model = build_model(NANO.model_copy(update={"image": image}), seed=0)
    for stage in (0, 1, 3):
        model.image.layers[stage].blocks = torch.nn.ModuleList()
    compile_blocks(model, backend="eager")
    model.encode_image(torch.randn(2, 3, 128, 128))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def first_stage(model: TwoTower) -> None:
    """Leave two blocks of the image tower, one of them shifted: a fraction of the compile time."""
    for stage in (1, 2, 3):
        model.image.layers[stage].blocks = torch.nn.ModuleList()


def test_forty_image_sizes_compile_a_few_times() -> None:
    """Where sizes vary: the same numbers at each, and no new code from some size on."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    image = NANO.image.model_copy(update={"depths": (2, 1, 1, 1)})
    plain, compiled = (build_model(NANO.model_copy(update={"image": image}), seed=0) for _ in "ab")
    for model in (plain, compiled):
        first_stage(model)
    compile_blocks(compiled, dynamic=True, backend="eager")
    sizes = [(32 + 16 * (n % 8), 48 + 16 * (n % 5)) for n in range(40)]
    assert len(set(sizes)) == 40
    graphs = []
    for height, width in sizes:
        images = torch.randn(2, 3, height, width)
        expected = plain.encode_image(images)
        torch.testing.assert_close(compiled.encode_image(images), expected, rtol=0, atol=1e-5)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[-1] == graphs[20] < 20


@pytest.mark.slow
def test_dynamic_sizes_have_the_same_gradients() -> None:
    torch.compiler.reset()
    image = NANO.image.model_copy(update={"depths": (2, 1, 1, 1), "drop_path": 0.3})
    plain, compiled = (build_model(NANO.model_copy(update={"image": image}), seed=0) for _ in "ab")
    for model in (plain, compiled):
        first_stage(model)
    compile_blocks(compiled, dynamic=True, backend="aot_eager")
    for height, width, length in ((64, 64, 9), (96, 64, 12), (50, 80, 5), (128, 96, 7)):
        images = torch.randn(2, 3, height, width)
        ids = torch.randint(1, NANO.text.vocabulary, (2, length))
        expected, actual = outcome(plain, images, ids), outcome(compiled, images, ids)
        for one, other in zip(expected, actual, strict=True):
            scale = max(1.0, one.abs().max().item())
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * scale)
