"""The text tower: causality, pooling, checkpointing, cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from florence.config import ActivationCheckpointing, TextTower, architecture_of
from florence.models.text import TextTransformer
from tests.florence.models.references import randomise

CONFIG = TextTower(width=32, layers=3, heads=4, hidden=96, context=20, vocabulary=100)
START, END = 98, 99


def tower(checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE) -> TextTransformer:
    model = TextTransformer(CONFIG, 24, checkpointing=checkpointing)
    randomise(model)
    return model


def texts(*lengths: int) -> torch.Tensor:
    ids = torch.zeros(len(lengths), CONFIG.context, dtype=torch.int64)
    generator = torch.Generator().manual_seed(0)
    for row, length in enumerate(lengths):
        ids[row, 0] = START
        ids[row, 1 : length - 1] = torch.randint(1, START, (length - 2,), generator=generator)
        ids[row, length - 1] = END
    return ids


def test_columns_after_every_end_token_may_be_cut() -> None:
    model, ids = tower(), texts(3, 8, 12)
    torch.testing.assert_close(model(ids[:, :12]), model(ids), rtol=0, atol=1e-5)


def test_tokens_after_the_end_do_not_matter_and_those_before_do() -> None:
    model, ids = tower(), texts(8)
    after, before = ids.clone(), ids.clone()
    after[0, 8:] = 7
    before[0, 1] = ids[0, 1] % 50 + 1
    torch.testing.assert_close(model(after), model(ids), rtol=0, atol=1e-6)
    assert (model(before) - model(ids)).abs().max() > 0.1


def test_the_first_end_token_is_pooled() -> None:
    model, ids = tower(), texts(8)
    padded_with_ends = ids.clone()
    padded_with_ends[0, 8:] = END
    torch.testing.assert_close(model(padded_with_ends), model(ids), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "checkpointing", [ActivationCheckpointing.SELECTIVE, ActivationCheckpointing.FULL]
)
def test_checkpointing_changes_no_bit_of_the_gradients(
    checkpointing: ActivationCheckpointing,
) -> None:
    ids = texts(3, 8, 20)
    results = []
    for kind in (ActivationCheckpointing.NONE, checkpointing):
        model = tower(kind)
        out = model(ids)
        results.append([out, *torch.autograd.grad(out.square().sum(), list(model.parameters()))])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_cost_formula_is_exact() -> None:
    """L (4 W² + 2 W F) per token, and two products of L keys per query: no causal discount."""
    width, hidden, length = CONFIG.width, CONFIG.hidden, CONFIG.context
    expected = CONFIG.layers * (
        length * (4 * width**2 + 2 * width * hidden) + 2 * length**2 * width
    )
    model = tower()
    # The fused kernel of the CPU is not counted by torch: the composite one is the same product.
    backend = torch.nn.attention.SDPBackend.MATH
    with (
        torch.nn.attention.sdpa_kernel(backend),
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        model(texts(20))
    assert counter.get_total_flops() == 2 * (expected + width * 24)


def test_cost_formula_gives_the_published_number() -> None:
    text = architecture_of("coswin-h").text
    per_token = text.layers * (4 * text.width**2 + 2 * text.width * text.hidden)
    cost = 77 * per_token + 2 * 77**2 * text.layers * text.width
    assert cost / 1e9 == pytest.approx(15.42, abs=0.006)
