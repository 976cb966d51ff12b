"""Chunks give the plain step's loss and gradients, with a fraction of its memory."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from florence.config import ActivationCheckpointing, ContrastiveLoss
from florence.distributed.accumulation import RandomState, accumulate_gradients
from florence.distributed.objective import Loss, Model, Objective
from florence.losses.contrastive import ContrastiveObjective
from florence.losses.unicl import unicl_loss
from florence.models.two_tower import build_model
from tests.florence.distributed.tiny import (
    TinyBatch,
    TinyTwoTower,
    pairs,
    peak_saved_bytes,
    small_coswin,
    tiny_batch,
)

CONTRASTIVE = ContrastiveObjective(ContrastiveLoss())


class PositivesOnly:
    """A sum over the samples with even labels, divided by their number in the whole batch.

    Separable, as losses of detection and of masked language models are; chunks may hold none.
    """

    coupled = False

    def __init__(self, *, poisoned: int | None = None) -> None:
        self.poisoned = poisoned
        self.calls = 0

    def prepare(self, batch: TinyBatch) -> Tensor:
        return (batch.labels % 2 == 0).sum()

    def outputs(self, model: Model, chunk: TinyBatch) -> tuple[Tensor, ...]:
        u, v, logit_scale = model(chunk.images, chunk.input_ids)
        return u, v, logit_scale

    def loss(self, outputs: tuple[Tensor, ...], batch: TinyBatch, prepared: Tensor) -> Loss:
        u, v, logit_scale = outputs
        positive = batch.labels % 2 == 0
        value = (((u * v).sum(1) - 1) ** 2 * positive).sum() / prepared
        value = value + (logit_scale * positive.sum()).sum() / prepared
        if self.calls == self.poisoned:
            value = value * float("nan")
        self.calls += 1
        return Loss(value, {"squares": value, "positives": positive.sum()})


class WithUnusedOutput(ContrastiveObjective):
    """Contrastive, with an output that the loss does not look at."""

    def outputs(self, model: Model, chunk: TinyBatch) -> tuple[Tensor, ...]:
        return (
            *super().outputs(model, chunk),
            torch.ones(1, requires_grad=torch.is_grad_enabled()),
        )

    def loss(self, outputs: tuple[Tensor, ...], batch: Any, prepared: Tensor) -> Loss:
        return super().loss(outputs[:3], batch, prepared)


def taken(model: nn.Module) -> dict[str, Tensor]:
    """The gradients, which are cleared."""
    grads = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        grads[name] = parameter.grad
        parameter.grad = None
    return grads


def gradients(
    model: nn.Module,
    batch: TinyBatch,
    chunks: int,
    objective: Objective[Any] = CONTRASTIVE,
) -> tuple[Loss, dict[str, Tensor]]:
    """Loss and gradients of one pass over the batch; clears the gradients."""
    loss = accumulate_gradients(
        objective,
        model,
        batch,
        chunks=chunks,
        backward=lambda scalar: scalar.backward(),
        synchronise=lambda is_last: contextlib.nullcontext(),
        mean_over_ranks=lambda value: value.detach(),
    )
    assert not loss.value.requires_grad
    assert not any(metric.requires_grad for metric in loss.metrics.values())
    return loss, taken(model)


def in_one_graph(
    model: nn.Module, batch: TinyBatch, chunks: int
) -> tuple[float, dict[str, Tensor]]:
    """What must come out: UniCL over all chunks in one graph, their forward passes in order."""
    parts = [model(part.images, part.input_ids) for part in batch.chunk(chunks)]
    u, v = (torch.cat([part[side] for part in parts]) for side in (0, 1))
    loss = unicl_loss(u, v, parts[0][2], batch.labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), taken(model)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor], *, tolerance: float) -> None:
    assert one.keys() == other.keys()
    for name, expected in other.items():
        # A gradient may be exactly zero: attention within one token needs no bias.
        difference = float((one[name] - expected).norm() / expected.norm().clamp_min(1e-30))
        assert difference <= tolerance, f"{name} differs by {difference}"


def in_dtype(batch: TinyBatch, dtype: torch.dtype) -> TinyBatch:
    return TinyBatch(batch.images.to(dtype), batch.input_ids, batch.labels)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 5e-6)])
@pytest.mark.parametrize("chunks", [1, 2, 3, 5, 7, 12])
def test_any_number_of_chunks_gives_the_full_batch(
    dtype: torch.dtype, tolerance: float, chunks: int
) -> None:
    model, batch = TinyTwoTower().to(dtype), in_dtype(tiny_batch(0), dtype)
    loss, grads = gradients(model, batch, chunks)
    expected_loss, expected = gradients(model, batch, 1)
    rel = 1e-15 if dtype is torch.float64 else 3e-7
    assert float(loss.value) == pytest.approx(float(expected_loss.value), rel=rel)
    for name, metric in expected_loss.metrics.items():
        assert float(loss.metrics[name]) == pytest.approx(float(metric), rel=rel)
    assert_equal(grads, expected, tolerance=tolerance)


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("chunks", [1, 2, 3, 12])
def test_dropout_is_replayed(
    dtype: torch.dtype, tolerance: float, chunks: int, checkpointed: bool
) -> None:
    model: nn.Module = TinyTwoTower(dropout=0.3).to(dtype)
    if checkpointed:
        model = _Checkpointed(model)
    batch = in_dtype(tiny_batch(0), dtype)
    torch.manual_seed(7)
    expected_loss, expected = in_one_graph(model, batch, chunks)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    loss, grads = gradients(model, batch, chunks)
    assert float(loss.value) == pytest.approx(expected_loss, rel=tolerance)
    assert_equal(grads, expected, tolerance=tolerance)
    assert torch.equal(torch.get_rng_state(), after), "the second pass must not move the generator"


class _Checkpointed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        result: tuple[Tensor, Tensor, Tensor] = checkpoint(
            self.model, images, input_ids, use_reentrant=False
        )
        return result


def test_without_replay_dropout_makes_the_gradients_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the test above sees a missing replay."""
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    model = TinyTwoTower(dropout=0.3)
    torch.manual_seed(7)
    _, expected = in_one_graph(model, tiny_batch(0), 4)
    torch.manual_seed(7)
    _, grads = gradients(model, tiny_batch(0), 4)
    with pytest.raises(AssertionError, match="differs by"):
        assert_equal(grads, expected, tolerance=0.1)


@pytest.mark.parametrize("chunks", [2, 3, 4, 5, 12])
def test_a_separable_loss_is_the_sum_over_its_chunks(chunks: int) -> None:
    model, batch = TinyTwoTower().double(), in_dtype(tiny_batch(0), torch.float64)
    whole, expected = gradients(model, batch, 1, PositivesOnly())
    loss, grads = gradients(model, batch, chunks, PositivesOnly())
    assert float(loss.value) == pytest.approx(float(whole.value), rel=1e-12)
    assert_equal(grads, expected, tolerance=1e-12)
    positives = int((batch.labels % 2 == 0).sum())
    assert 0 < positives < len(batch)
    assert int(loss.metrics["positives"]) == positives
    assert float(loss.metrics["squares"]) == pytest.approx(float(whole.value), rel=1e-12)


def test_a_separable_loss_is_computed_once_per_chunk_and_prepared_once() -> None:
    """No second forward pass: accumulation of a separable loss costs nothing."""
    seen: list[int] = []
    prepared: list[int] = []

    class Watched(PositivesOnly):
        def prepare(self, batch: TinyBatch) -> Tensor:
            prepared.append(len(batch))
            return super().prepare(batch)

        def outputs(self, model: Model, chunk: TinyBatch) -> tuple[Tensor, ...]:
            assert torch.is_grad_enabled()
            seen.append(len(chunk))
            return super().outputs(model, chunk)

    gradients(TinyTwoTower(), tiny_batch(0), 4, Watched())
    assert seen == [3, 3, 3, 3]
    assert prepared == [12]


def test_a_coupled_loss_costs_one_forward_pass_more_but_of_the_last_chunk() -> None:
    passes: list[bool] = []

    class Watched(ContrastiveObjective):
        def outputs(self, model: Model, chunk: Any) -> tuple[Tensor, ...]:
            passes.append(torch.is_grad_enabled())
            return super().outputs(model, chunk)

    gradients(TinyTwoTower(), tiny_batch(0), 4, Watched(ContrastiveLoss()))
    assert passes == [False] * 3 + [True] * 4


def test_an_output_that_the_loss_does_not_use_changes_nothing() -> None:
    model = TinyTwoTower()
    _, expected = gradients(model, tiny_batch(0), 3)
    _, grads = gradients(model, tiny_batch(0), 3, WithUnusedOutput(ContrastiveLoss()))
    assert_equal(grads, expected, tolerance=0)


@pytest.mark.parametrize("objective", [CONTRASTIVE, PositivesOnly()], ids=["coupled", "separable"])
@pytest.mark.parametrize("chunks", [1, 3])
def test_a_non_finite_loss_on_another_rank_poisons_the_gradients(
    objective: Objective[Any], chunks: int
) -> None:
    model = TinyTwoTower()
    loss = accumulate_gradients(
        objective,
        model,
        tiny_batch(0),
        chunks=chunks,
        backward=lambda scalar: scalar.backward(),
        synchronise=lambda is_last: contextlib.nullcontext(),
        mean_over_ranks=lambda value: value.detach() + float("nan"),
    )
    assert bool(loss.value.isnan())
    # All, but for rows of the embedding that the last chunk does not use.
    assert all(bool(grad.isnan().any()) for grad in taken(model).values())


@pytest.mark.parametrize("poisoned", [0, 1, 2])
def test_a_non_finite_chunk_anywhere_makes_the_whole_loss_so(poisoned: int) -> None:
    loss, grads = gradients(TinyTwoTower(), tiny_batch(0), 3, PositivesOnly(poisoned=poisoned))
    assert bool(loss.value.isnan())
    assert all(bool(grad.isnan().any()) for grad in grads.values())


@pytest.mark.parametrize("objective", [CONTRASTIVE, PositivesOnly()], ids=["coupled", "separable"])
def test_only_the_last_backward_pass_synchronises(objective: Objective[Any]) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def synchronise(is_last: bool) -> Any:
        events.append(f"open {is_last}")
        yield
        events.append("close")

    accumulate_gradients(
        objective,
        TinyTwoTower(),
        tiny_batch(0),
        chunks=4,
        backward=lambda scalar: events.append("backward"),
        synchronise=synchronise,
        mean_over_ranks=lambda value: value.detach(),
    )
    assert events == ["open False", "backward", "close"] * 3 + ["open True", "backward", "close"]


def test_ranks_agree_once_on_the_loss() -> None:
    """The mean is a collective: the same number of calls whatever the number of chunks."""
    for objective in (CONTRASTIVE, PositivesOnly()):
        calls: list[float] = []

        def mean(value: Tensor, calls: list[float] = calls) -> Tensor:
            calls.append(value.item())
            return value.detach()

        for chunks in (1, 3, 12):
            accumulate_gradients(
                objective,
                TinyTwoTower(),
                tiny_batch(0),
                chunks=chunks,
                backward=lambda scalar: scalar.backward(),
                synchronise=lambda is_last: contextlib.nullcontext(),
                mean_over_ranks=mean,
            )
        assert calls == pytest.approx([calls[0]] * 3, rel=1e-6)


@pytest.mark.parametrize(
    "checkpointing", [ActivationCheckpointing.NONE, ActivationCheckpointing.FULL]
)
def test_coswin_with_drop_path(checkpointing: ActivationCheckpointing) -> None:
    model = build_model(small_coswin(), seed=0, checkpointing=checkpointing)
    model.train()
    torch.manual_seed(3)
    _, expected = in_one_graph(model, pairs(8), 4)
    torch.manual_seed(3)
    _, grads = gradients(model, pairs(8), 4)
    assert_equal(grads, expected, tolerance=2e-5)


@pytest.mark.parametrize(
    ("objective", "fraction"),
    [(CONTRASTIVE, 5), (PositivesOnly(), 5)],
    ids=["coupled", "separable"],
)
def test_saved_activations_fall_with_the_number_of_chunks(
    objective: Objective[Any], fraction: int
) -> None:
    """Bytes alive at once for the backward pass, parameters not counted.

    Not quite an eighth: bias tables and weights in another layout do not shrink with the batch.
    """
    model = build_model(small_coswin(), seed=0)
    batch = pairs(16)
    plain = peak_saved_bytes(model, lambda: gradients(model, batch, 1, objective))
    cached = peak_saved_bytes(model, lambda: gradients(model, batch, 8, objective))
    assert cached < plain / fraction
