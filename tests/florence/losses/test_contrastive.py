"""UniCL as an objective: what a step tells about its batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from florence.config import ContrastiveLoss, Reduction
from florence.distributed.world import World, join
from florence.losses.contrastive import ContrastiveObjective
from florence.losses.unicl import unicl_loss
from tests.florence.distributed.tiny import TinyBatch, TinyTwoTower, tiny_batch
from tests.gang import run_gang


@dataclass
class Counted:
    """A model that tells what it was called with."""

    calls: list[tuple[Any, ...]]

    def __call__(self, *inputs: Any) -> Any:
        self.calls.append(inputs)
        return TinyTwoTower()(*inputs)


def batch_with(labels: Tensor) -> TinyBatch:
    batch, size = tiny_batch(0), len(labels)
    return TinyBatch(batch.images[:size], batch.input_ids[:size], labels)


def metrics(labels: Tensor, reduction: Reduction) -> tuple[float, dict[str, float]]:
    objective = ContrastiveObjective(ContrastiveLoss(reduction=reduction))
    batch = batch_with(labels)
    prepared = objective.prepare(batch)
    loss = objective.loss(objective.outputs(TinyTwoTower(), batch), batch, prepared)
    assert not any(metric.requires_grad for metric in loss.metrics.values())
    return loss.value.item(), {name: float(value) for name, value in loss.metrics.items()}


def test_outputs_are_one_call_of_the_model_with_images_and_tokens() -> None:
    model, batch = Counted([]), tiny_batch(0)
    u, v, logit_scale = ContrastiveObjective(ContrastiveLoss()).outputs(model, batch)
    ((images, input_ids),) = model.calls
    assert images is batch.images
    assert input_ids is batch.input_ids
    assert u.shape == v.shape == (12, 5)
    assert logit_scale.shape == (1,)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_positives_are_counted_as_loops_would(labels: list[int]) -> None:
    _, told = metrics(torch.tensor(labels), Reduction.MEAN)
    counts = [sum(other == label for other in labels) for label in labels]
    assert told["positives_per_row"] == pytest.approx(sum(counts) / len(counts), rel=1e-6)


def test_the_loss_is_told_in_both_reductions_whatever_is_minimised() -> None:
    labels = tiny_batch(0).labels
    mean_loss, of_mean = metrics(labels, Reduction.MEAN)
    sum_loss, of_sum = metrics(labels, Reduction.SUM)
    assert of_mean == pytest.approx(of_sum, rel=1e-6)
    assert mean_loss == pytest.approx(of_mean["loss_mean"])
    assert sum_loss == pytest.approx(of_sum["loss_sum"])
    assert sum_loss == pytest.approx(2 * 12 * mean_loss, rel=1e-6)


def test_the_scale_is_what_logits_are_multiplied_by() -> None:
    _, told = metrics(tiny_batch(0).labels, Reduction.MEAN)
    assert told["logit_scale"] == pytest.approx(float(torch.tensor(2.659).exp()))


def test_of_several_chunks_log_scales_the_first_stands_for_all() -> None:
    objective = ContrastiveObjective(ContrastiveLoss())
    batch = tiny_batch(0)
    u, v, logit_scale = objective.outputs(TinyTwoTower(), batch)
    prepared = objective.prepare(batch)
    leaf = logit_scale.detach().repeat(4).requires_grad_()
    loss = objective.loss((u, v, leaf), batch, prepared)
    assert loss.value.item() == objective.loss((u, v, logit_scale), batch, prepared).value.item()
    (grad,) = torch.autograd.grad(loss.value, leaf)
    assert float(grad[0]) != 0
    assert grad[1:].tolist() == [0.0, 0.0, 0.0]


def _ranks() -> dict[str, float]:
    world: World = join(60.0)
    objective = ContrastiveObjective(ContrastiveLoss())
    batch = tiny_batch(0).rows_of(world.rank, world.size)
    loss = objective.loss(objective.outputs(TinyTwoTower(), batch), batch, objective.prepare(batch))
    names = list(loss.metrics)
    values = torch.stack([loss.value.detach(), *loss.metrics.values()])
    return dict(zip(["value", *names], world.all_reduce_mean(values).tolist(), strict=True))


def test_the_means_over_ranks_are_those_of_one_process() -> None:
    batch = tiny_batch(0)
    u, v, logit_scale = TinyTwoTower()(batch.images, batch.input_ids)
    expected = unicl_loss(u, v, logit_scale, batch.labels).item()
    _, alone = metrics(batch.labels, Reduction.MEAN)
    for told in run_gang(_ranks, 3):
        assert told["value"] == pytest.approx(expected, rel=1e-5)
        assert told == pytest.approx({"value": expected, **alone}, rel=1e-5)
