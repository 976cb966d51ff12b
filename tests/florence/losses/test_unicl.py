"""UniCL against loops, closed forms, known special cases, and itself on several processes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from florence.config import Reduction
from florence.losses.unicl import unicl_loss
from tests.gang import run_gang


def features(
    n: int, d: int, classes: int, *, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unit u and v (n, d), log-scale [1] and labels (n,) with about n / classes positives each."""
    generator = torch.Generator().manual_seed(seed)
    u = F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    v = F.normalize(torch.randn(n, d, generator=generator, dtype=torch.float64), dim=1)
    labels = torch.randint(classes, (n,), generator=generator) * 7 - 3
    return u.to(dtype), v.to(dtype), torch.tensor([math.log(14.3)], dtype=dtype), labels


def paper_sum(u: Tensor, v: Tensor, logit_scale: Tensor, labels: Tensor) -> Tensor:
    return unicl_loss(u, v, logit_scale, labels, reduction=Reduction.SUM)


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def naive(u: Tensor, v: Tensor, logit_scale: Tensor, labels: Tensor) -> tuple[float, float]:
    """Both directions of equations 1 to 3, element by element in Python floats."""
    scale = math.exp(float(logit_scale))
    n = len(labels)
    s = [[scale * dot(x, y) for y in v.tolist()] for x in u.tolist()]
    y = labels.tolist()
    image_to_text = text_to_image = 0.0
    for i in range(n):
        positives = [k for k in range(n) if y[k] == y[i]]
        for k in positives:
            row = sum(math.exp(s[i][j]) for j in range(n))
            column = sum(math.exp(s[j][i]) for j in range(n))
            image_to_text -= math.log(math.exp(s[i][k]) / row) / len(positives)
            text_to_image -= math.log(math.exp(s[k][i]) / column) / len(positives)
    return image_to_text, text_to_image


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@pytest.mark.parametrize("classes", [1, 4, 50])
def test_equals_the_loops(dtype: torch.dtype, rtol: float, classes: int) -> None:
    u, v, logit_scale, labels = features(13, 5, classes)
    expected = sum(naive(u, v, logit_scale, labels))
    arguments = (u.to(dtype), v.to(dtype), logit_scale.to(dtype), labels)
    assert float(paper_sum(*arguments)) == pytest.approx(expected, rel=rtol)
    mean = unicl_loss(*arguments, reduction=Reduction.MEAN)
    assert mean.dtype == dtype
    assert float(mean) == pytest.approx(expected / 26, rel=rtol)


def test_order_and_names_of_labels_do_not_matter_and_towers_may_swap() -> None:
    u, v, logit_scale, labels = features(24, 6, 5)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    expected = paper_sum(u, v, logit_scale, labels)
    for other in (
        paper_sum(u[order], v[order], logit_scale, labels[order]),
        paper_sum(u, v, logit_scale, 1_000_003 - 11 * labels),
        paper_sum(v, u, logit_scale, labels),
    ):
        torch.testing.assert_close(other, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row_chunk", [0, 3])
def test_gradients_equal_finite_differences(row_chunk: int) -> None:
    u, v, logit_scale, labels = features(7, 4, 3)
    inputs = [t.requires_grad_() for t in (u, v, logit_scale)]
    assert torch.autograd.gradcheck(
        lambda a, b, c: unicl_loss(a, b, c, labels, row_chunk=row_chunk), inputs
    )


def test_gradient_by_logits_is_softmax_minus_positives() -> None:
    """With one-hot columns, u holds the logits themselves: dL/du is dL/ds."""
    n = 6
    logits = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([0, 1, 0, 2, 1, 0])
    u = logits.clone().requires_grad_()
    paper_sum(
        u, torch.eye(n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64), labels
    ).backward()
    same = (labels[:, None] == labels[None, :]).double()
    target = same / same.sum(1, keepdim=True)
    expected = logits.softmax(1) - target + logits.softmax(0) - target.T
    torch.testing.assert_close(u.grad, expected, rtol=1e-12, atol=1e-12)


def test_gradient_by_logit_scale_is_the_sum_of_logit_gradients_times_logits() -> None:
    u, v, logit_scale, labels = features(9, 4, 3)
    logit_scale.requires_grad_()
    paper_sum(u, v, logit_scale, labels).backward()
    s = (logit_scale.detach().exp() * u @ v.T).requires_grad_()
    same = (labels[:, None] == labels[None, :]).double()
    by_rows = (s.logsumexp(1) - (s * same / same.sum(1, keepdim=True)).sum(1)).sum()
    by_columns = (s.logsumexp(0) - (s * same / same.sum(0, keepdim=True)).sum(0)).sum()
    (by_rows + by_columns).backward()
    assert s.grad is not None
    torch.testing.assert_close(logit_scale.grad, (s.grad * s).sum().reshape(1), rtol=1e-12, atol=0)


def test_distinct_labels_give_clip() -> None:
    u, v, logit_scale, _ = features(17, 8, 1)
    logits = logit_scale.exp() * u @ v.T
    diagonal = torch.arange(17)
    clip = (F.cross_entropy(logits, diagonal) + F.cross_entropy(logits.T, diagonal)) / 2
    ours = unicl_loss(u, v, logit_scale, 100 - diagonal, reduction=Reduction.MEAN)
    torch.testing.assert_close(ours, clip, rtol=1e-12, atol=0)


def test_one_text_per_class_gives_cross_entropy_over_classes() -> None:
    """L_i2t of row i is CE(τ u·p_c + ln n_c, y_i) + ln n_{y_i}; L_t2i is taken from the loops."""
    u, prototypes, logit_scale, _ = features(12, 5, 1)
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3])
    v = prototypes[labels]
    counts = torch.bincount(labels).double()
    logits = logit_scale.exp() * u @ prototypes[:4].T + counts.log()
    cross_entropy = F.cross_entropy(logits, labels, reduction="sum") + counts[labels].log().sum()
    image_to_text, text_to_image = naive(u, v, logit_scale, labels)
    assert image_to_text == pytest.approx(float(cross_entropy), rel=1e-12)
    total = paper_sum(u, v, logit_scale, labels)
    assert float(total) - text_to_image == pytest.approx(float(cross_entropy), rel=1e-12)


def test_lower_bound_is_met_only_by_uniform_positives() -> None:
    u, v, logit_scale, labels = features(20, 6, 4)
    _, inverse, counts = labels.unique(return_inverse=True, return_counts=True)
    bound = 2 * float(counts[inverse].double().log().sum())
    assert float(paper_sum(u, v, logit_scale, labels)) > bound
    axes = torch.eye(int(inverse.max()) + 1, dtype=torch.float64)[inverse]
    large = torch.tensor([math.log(1e4)], dtype=torch.float64)
    assert float(paper_sum(axes, axes, large, labels)) == pytest.approx(bound, rel=1e-9)


def test_every_pair_twice_costs_two_ln_two_per_sample() -> None:
    u, v, logit_scale, labels = features(11, 5, 4)
    once = paper_sum(u, v, logit_scale, labels) / 11
    twice = paper_sum(u.repeat(2, 1), v.repeat(2, 1), logit_scale, labels.repeat(2)) / 22
    assert float(twice - once) == pytest.approx(2 * math.log(2), rel=1e-12)


def test_a_shift_of_a_rows_logits_leaves_image_to_text_alone() -> None:
    """Adding a constant to row i of s changes only the text-to-image direction, and conversely."""
    n = 5
    s = torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eye, zero = torch.eye(n, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 2, 0])
    shift = torch.linspace(-2, 2, n, dtype=torch.float64)[:, None]
    same = (labels[:, None] == labels[None, :]).double()
    target = same / same.sum(1, keepdim=True)

    def by_columns(logits: Tensor) -> Tensor:
        return (logits.logsumexp(0) - (logits * target.T).sum(0)).sum()

    change = paper_sum(s + shift, eye, zero, labels) - paper_sum(s, eye, zero, labels)
    torch.testing.assert_close(change, by_columns(s + shift) - by_columns(s), rtol=1e-9, atol=1e-12)
    assert abs(float(change)) > 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_features_at_the_largest_scale_stay_finite(dtype: torch.dtype) -> None:
    row = F.normalize(torch.randn(1, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    u = row.repeat(8, 1).to(dtype).requires_grad_()
    v = row.repeat(8, 1).to(dtype).requires_grad_()
    logit_scale = torch.tensor([math.log(100.0)], requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = unicl_loss(u, v, logit_scale, torch.arange(8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(8), rel=1e-4)
    loss.backward()
    for tensor in (u, v, logit_scale):
        assert tensor.grad is not None
        assert bool(tensor.grad.isfinite().all())


def test_autocast_around_it_does_not_lower_its_precision() -> None:
    u, v, logit_scale, labels = features(64, 32, 9, dtype=torch.float32)
    expected = unicl_loss(u, v, logit_scale, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(unicl_loss(u, v, logit_scale, labels), expected)


@pytest.mark.parametrize("row_chunk", [1, 4, 5, 16, 99])
def test_row_chunks_change_nothing(row_chunk: int) -> None:
    whole, parts = [], []
    for chunk, results in ((0, whole), (row_chunk, parts)):
        u, v, logit_scale, labels = features(16, 6, 5)
        inputs = [t.requires_grad_() for t in (u, v, logit_scale)]
        loss = unicl_loss(u, v, logit_scale, labels, row_chunk=chunk)
        results += [loss, *torch.autograd.grad(loss, inputs)]
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


def test_row_chunks_hold_fewer_logits_for_the_backward_pass() -> None:
    def saved(row_chunk: int) -> int:
        elements = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal elements
            elements += tensor.numel()
            return tensor

        u, v, logit_scale, labels = features(256, 4, 9)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            unicl_loss(u.requires_grad_(), v, logit_scale, labels, row_chunk=row_chunk)
        return elements

    assert saved(0) > 2 * 256 * 256
    assert saved(32) < 256 * 256


CASES = [(0, Reduction.MEAN), (0, Reduction.SUM), (4, Reduction.MEAN)]


def _gradients(row_chunk: int, reduction: Reduction, group: Any = None) -> list[Any]:
    """Loss and gradients of linear towers and the log-scale, averaged over the group's ranks.

    As numpy: tensors travel between processes as handles of memory that is gone with its owner.
    """
    rank = dist.get_rank(group) if dist.is_initialized() else 0
    size = dist.get_world_size(group) if dist.is_initialized() else 1
    generator = torch.Generator().manual_seed(5)
    n = 24
    x, t = torch.randn(n, 10, generator=generator), torch.randn(n, 12, generator=generator)
    labels = torch.randint(6, (n,), generator=generator)
    weights = [
        torch.randn(6, 10, generator=generator).requires_grad_(),
        torch.randn(6, 12, generator=generator).requires_grad_(),
        torch.tensor([2.5], requires_grad=True),
    ]
    rows = slice(rank * n // size, (rank + 1) * n // size)
    u = F.normalize(x[rows] @ weights[0].T, dim=1)
    v = F.normalize(t[rows] @ weights[1].T, dim=1)
    loss = unicl_loss(
        u, v, weights[2], labels[rows], row_chunk=row_chunk, reduction=reduction, group=group
    )
    results = [loss.detach(), *torch.autograd.grad(loss, weights)]
    if size > 1:
        for result in results:
            dist.all_reduce(result, group=group)
            result /= size
    return [result.numpy() for result in results]


def _in_fours_and_in_pairs() -> list[list[list[Any]]]:
    pairs = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    pair = pairs[dist.get_rank() // 2]
    return [[_gradients(*case, group=group) for case in CASES] for group in (None, pair)]


def test_four_and_two_processes_equal_one() -> None:
    alone = [_gradients(*case) for case in CASES]
    for by_size in run_gang(_in_fours_and_in_pairs, 4):
        for by_case in by_size:
            for ours, expected in zip(by_case, alone, strict=True):
                for one, other in zip(ours, expected, strict=True):
                    tolerance = 1e-6 * float(abs(other).max())
                    np.testing.assert_allclose(one, other, rtol=1e-5, atol=tolerance)
