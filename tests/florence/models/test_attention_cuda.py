"""Window attention's kernels on a GPU against double precision on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from florence.config import Attention
from florence.models.attention import MAX_FUSED_BATCH, WindowAttention
from florence.models.compilation import compile_blocks
from florence.models.two_tower import build_model
from florence.models.windows import WindowGrid
from tests.florence.distributed.tiny import pairs, small_coswin
from tests.florence.models.references import randomise

pytestmark = pytest.mark.cuda

CHANNELS, HEADS = 64, 2
GRIDS = {
    # 49 tokens a window are no multiple of what fused kernels load at once.
    "plain": WindowGrid.fit(28, 28, 7, shifted=False),
    "shifted": WindowGrid.fit(28, 28, 7, shifted=True),
    "padded": WindowGrid.fit(18, 25, 7, shifted=True),
    "windows of 12": WindowGrid.fit(24, 24, 12, shifted=True),
}


def value_and_gradients(
    module: WindowAttention, x: Tensor, grid: WindowGrid, direction: Tensor
) -> list[Tensor]:
    x = x.detach().requires_grad_()
    out = module(x, grid)
    (out * direction).sum().backward()  # type: ignore[no-untyped-call]
    gradients = [x.grad, *(p.grad for p in module.parameters())]
    return [tensor.detach().double().cpu() for tensor in (out, *gradients) if tensor is not None]


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)]
)
@pytest.mark.parametrize("implementation", list(Attention))
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_equals_double_precision(
    grid: WindowGrid, implementation: Attention, dtype: torch.dtype, tolerance: float
) -> None:
    side = max(grid.window_height, grid.window_width)
    exact = WindowAttention(CHANNELS, HEADS, side, Attention.MATH).double()
    randomise(exact)
    generator = torch.Generator().manual_seed(1)
    shape = (3, grid.windows * grid.tokens, CHANNELS)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    ours = copy.deepcopy(exact).to("cuda", torch.float32)
    ours.implementation = implementation
    expected = value_and_gradients(exact, x, grid, direction)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
        actual = value_and_gradients(ours, x.float().cuda(), grid, direction.float().cuda())
    for ours_, theirs in zip(actual, expected, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours_, theirs, rtol=0, atol=tolerance * scale)


def test_more_windows_than_a_kernel_takes_have_gradients() -> None:
    module = WindowAttention(32, 1, 4, Attention.SDPA).cuda()
    grid = WindowGrid.fit(64, 64, 4, shifted=False)
    x = torch.randn(257, grid.windows * grid.tokens, 32, device="cuda", requires_grad=True)
    assert 257 * grid.windows > MAX_FUSED_BATCH
    module(x, grid).square().mean().backward()
    whole = [x.grad, module.relative_position_bias_table.grad]
    module.implementation = Attention.MATH
    x.grad = None
    module.zero_grad()
    module(x, grid).square().mean().backward()
    for ours, theirs in zip(whole, [x.grad, module.relative_position_bias_table.grad], strict=True):
        assert theirs is not None
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("heads", [1, 2])
def test_compiled_blocks_have_the_gradients_of_eager_ones(heads: int) -> None:
    """Of every parameter, so that a failure names the module whose code is wrong."""
    batch = pairs(8, side=64).to("cuda")
    small = small_coswin()
    image = small.image.model_copy(update={"heads": tuple(heads * h for h in small.image.heads)})
    architecture = small.model_copy(update={"image": image})

    def gradients(prepare: Callable[[torch.nn.Module], None]) -> dict[str, Tensor]:
        model = build_model(architecture, seed=0, drop_path=0.0).cuda().train()
        prepare(model)
        u, v, scale = model(batch.images, batch.input_ids)
        labels = torch.arange(8, device="cuda")
        torch.nn.functional.cross_entropy(scale.exp() * u @ v.t(), labels).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    eager, compiled = gradients(lambda model: None), gradients(compile_blocks)
    largest = max(gradient.norm().item() for gradient in eager.values())
    wrong = {
        name: difference
        for name, gradient in eager.items()
        if (difference := (compiled[name] - gradient).norm().item() / largest) > 1e-4
    }
    assert not wrong
