"""The gradient cache gives the plain step's loss and gradients, with a fraction of its memory."""

from __future__ import annotations

import contextlib

import pytest
import torch
from florence.distributed.gradient_cache import RandomState, accumulate_gradients
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence.config import ActivationCheckpointing, Loss
from florence.distributed.objective import ContrastiveObjective
from florence.models.two_tower import build_model
from tests.florence.distributed.tiny import (
    TinyBatch,
    TinyTwoTower,
    pairs,
    peak_saved_bytes,
    small_coswin,
    tiny_batch,
)

OBJECTIVE = ContrastiveObjective(Loss())


def gradients(model: nn.Module, batch: TinyBatch, chunks: int) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one pass over the batch; clears the gradients."""
    result = accumulate_gradients(
        OBJECTIVE,
        model,
        batch,
        chunks=chunks,
        backward=lambda scalar: scalar.backward(),
        synchronise=lambda is_last: contextlib.nullcontext(),
        mean_over_ranks=lambda loss: loss.detach(),
    )
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        grads[name] = parameter.grad
        parameter.grad = None
    return float(result.loss), grads


def uncached(model: nn.Module, batch: TinyBatch, chunks: int) -> dict[str, Tensor]:
    """Gradients of all chunks in one graph, forwards in order: what the cache must reproduce."""
    parts = [OBJECTIVE.features(model, part) for part in batch.chunk(chunks)]
    rows = tuple(torch.cat(tensors) for tensors in zip(*(p.rows for p in parts), strict=True))
    OBJECTIVE.loss(rows, parts[0].logit_scale, batch).backward()
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        grads[name] = parameter.grad
        parameter.grad = None
    return grads


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], *, tolerance: float) -> None:
    for name, expected in other.items():
        # A gradient may be exactly zero: attention within one token needs no bias.
        difference = float((one[name] - expected).norm() / expected.norm().clamp_min(1e-30))
        assert difference <= tolerance, f"{name} differs by {difference}"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 7, 12])
def test_any_number_of_chunks_gives_the_full_batch(
    dtype: torch.dtype, tolerance: float, chunks: int
) -> None:
    model = _Fp64(TinyTwoTower()).to(dtype)
    batch = tiny_batch(0)
    batch.images = batch.images.to(dtype)
    loss, grads = gradients(model, batch, chunks)
    expected_loss, expected = gradients(model, batch, 1)
    assert loss == pytest.approx(expected_loss, rel=1e-15 if dtype is torch.float64 else 3e-7)
    assert_equal(grads, expected, tolerance=tolerance)


class _Fp64(nn.Module):
    """TinyTwoTower without its cast to fp32."""

    def __init__(self, model: TinyTwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = self.model
        u, v = m.image_projection(m.image(images)), m.text(m.embedding(ids)).mean(1)
        normalize = nn.functional.normalize
        return normalize(u, dim=1), normalize(v, dim=1), m.logit_scale.clone()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_dropout_is_replayed(checkpointed: bool) -> None:
    model: nn.Module = TinyTwoTower(dropout=0.3)
    if checkpointed:
        model = _Checkpointed(model)
    torch.manual_seed(7)
    expected = uncached(model, tiny_batch(0), 4)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    _, grads = gradients(model, tiny_batch(0), 4)
    assert_equal(grads, expected, tolerance=1e-5)
    assert torch.equal(torch.get_rng_state(), after), "the second pass must not move the generator"


class _Checkpointed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor] = checkpoint(
            self.model, images, ids, use_reentrant=False
        )
        return result


def test_without_replay_dropout_makes_the_gradients_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the test above sees a missing replay."""
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    model = TinyTwoTower(dropout=0.3)
    torch.manual_seed(7)
    expected = uncached(model, tiny_batch(0), 4)
    torch.manual_seed(7)
    _, grads = gradients(model, tiny_batch(0), 4)
    with pytest.raises(AssertionError, match="differs by"):
        assert_equal(grads, expected, tolerance=0.1)


def test_a_non_finite_loss_on_another_rank_poisons_the_gradients() -> None:
    for chunks in (1, 3):
        model = TinyTwoTower()
        accumulate_gradients(
            OBJECTIVE,
            model,
            tiny_batch(0),
            chunks=chunks,
            backward=lambda scalar: scalar.backward(),
            synchronise=lambda is_last: contextlib.nullcontext(),
            mean_over_ranks=lambda loss: loss.detach() + float("nan"),
        )
        assert all(bool(p.grad.isnan().all()) for p in model.parameters() if p.grad is not None)
        assert model.logit_scale.grad is not None


def test_only_the_last_backward_pass_synchronises() -> None:
    calls: list[bool] = []

    def synchronise(is_last: bool) -> contextlib.nullcontext[None]:
        calls.append(is_last)
        return contextlib.nullcontext()

    accumulate_gradients(
        OBJECTIVE,
        TinyTwoTower(),
        tiny_batch(0),
        chunks=4,
        backward=lambda scalar: scalar.backward(),
        synchronise=synchronise,
        mean_over_ranks=lambda loss: loss.detach(),
    )
    assert calls == [False, False, False, True]


@pytest.mark.parametrize(
    "checkpointing", [ActivationCheckpointing.NONE, ActivationCheckpointing.FULL]
)
def test_coswin_with_drop_path(checkpointing: ActivationCheckpointing) -> None:
    model = build_model(small_coswin(), seed=0, checkpointing=checkpointing)
    model.train()
    torch.manual_seed(3)
    expected = uncached(model, pairs(8), 4)
    torch.manual_seed(3)
    _, grads = gradients(model, pairs(8), 4)
    assert_equal(grads, expected, tolerance=2e-5)


def test_saved_activations_fall_with_the_number_of_chunks() -> None:
    """Bytes alive at once for the backward pass, parameters not counted.

    Not quite an eighth: bias tables and weights in another layout do not shrink with the batch.
    """
    model = build_model(small_coswin(), seed=0)
    batch = pairs(16)
    plain = peak_saved_bytes(model, lambda: gradients(model, batch, 1))
    cached = peak_saved_bytes(model, lambda: gradients(model, batch, 8))
    assert cached < plain / 5
