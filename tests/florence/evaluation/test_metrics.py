"""Numbers of a classification against counting by hand (science.md E1, E6)."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from florence.errors import DataError
from florence.evaluation.metrics import (
    average_precision_11,
    from_blocks,
    from_logits,
    mean_average_precision_11,
)


def brute_force(scores: list[int], truth: list[bool]) -> Fraction:
    """The definition, in fractions: walk down the ranking, negatives first where scores tie."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], truth[i]))
    points = []
    hits = 0
    for place, i in enumerate(order, start=1):
        hits += truth[i]
        points.append((Fraction(hits, sum(truth)), Fraction(hits, place)))
    levels = [Fraction(n, 10) for n in range(11)]
    best = [max(precision for recall, precision in points if recall >= t) for t in levels]
    return sum(best, Fraction()) / 11


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, max_examples=300)
def test_average_precision_equals_brute_force(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = [score for score, _ in pairs], [has for _, has in pairs]
    value = average_precision_11(torch.tensor(scores, dtype=torch.float32), torch.tensor(truth))
    if not any(truth):
        assert math.isnan(value)
    else:
        assert value == pytest.approx(float(brute_force(scores, truth)), abs=1e-12)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("1", 1.0),
        ("1100", 1.0),
        ("01", 1 / 2),
        ("0001", 1 / 4),
        # Recalls 0 … 0.5 are reached with precision 1, the others only at the end, with 2/4.
        ("1001", (6 * 1 + 5 * 2 / 4) / 11),
        # Precision climbs from 1/2 to 2/3: the best at that recall or more counts everywhere.
        ("011", 2 / 3),
        # Ten right ones, the last after ten wrong ones: recall 1.0 alone pays for it.
        ("1" * 9 + "0" * 10 + "1", (10 * 1 + 10 / 20) / 11),
        # Three of ten are recall 0.3 exactly, which floating point would miss.
        ("111" + "0" * 7 + "1" * 7, (4 * 1 + 7 * 10 / 17) / 11),
    ],
)
def test_golden_cases(truth: str, expected: float) -> None:
    scores = -torch.arange(len(truth), dtype=torch.float32)
    has = torch.tensor([mark == "1" for mark in truth])
    assert average_precision_11(scores, has) == pytest.approx(expected, abs=1e-12)


def test_what_a_model_cannot_tell_apart_is_no_merit() -> None:
    has = torch.tensor([True, False, False, True])
    assert average_precision_11(torch.ones(4), has) == pytest.approx(2 / 4)
    assert average_precision_11(torch.full((4,), math.nan), has) == pytest.approx(2 / 4)


def test_the_mean_is_over_classes_that_exist_and_skips_what_is_difficult() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [1.0, 3.0, 0.0]])
    truth = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    result = mean_average_precision_11(scores, truth)
    assert result.average_precisions[:2] == pytest.approx((1 / 2, 1 / 3))
    assert math.isnan(result.average_precisions[2])
    assert result.mean == pytest.approx((1 / 2 + 1 / 3) / 2)
    ignored = torch.zeros_like(truth)
    ignored[0, 0] = True
    assert mean_average_precision_11(scores, truth, ignored).average_precisions[0] == 1.0
    with pytest.raises(DataError, match="no image has any"):
        mean_average_precision_11(scores, torch.zeros_like(truth))


@st.composite
def logits_and_labels(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    images, classes = draw(st.integers(1, 12)), draw(st.integers(1, 9))
    values = draw(
        st.lists(st.integers(-2, 2), min_size=images * classes, max_size=images * classes)
    )
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return torch.tensor(values, dtype=torch.float32).reshape(images, classes), torch.tensor(labels)


@given(logits_and_labels())
@settings(deadline=None)
def test_a_heads_accuracies_equal_brute_force(problem: tuple[Tensor, Tensor]) -> None:
    logits, labels = problem
    result = from_logits(logits, labels)
    places, per_class = [], {}
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        order = sorted(range(len(row)), key=lambda c: (-row[c], c == label))
        places.append(order.index(label))
        per_class.setdefault(label, []).append(order[0] == label)
    assert result.top1 == pytest.approx(sum(p < 1 for p in places) / len(places))
    assert result.top5 == pytest.approx(sum(p < 5 for p in places) / len(places))
    means = [sum(hits) / len(hits) for hits in per_class.values()]
    assert result.mean_per_class == pytest.approx(sum(means) / len(means))
    assert result.confusion.sum() == len(labels)
    parts = from_blocks(iter(logits.split(3)), labels, logits.shape[1])
    assert (parts.top1, parts.top5) == (result.top1, result.top5)


def test_classes_of_one_name_are_told_apart_by_their_order_only() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0], [1.0, 5.0, 5.0], [9.0, 5.0, 5.0]])
    labels = torch.tensor([1, 2, 0])
    assert from_blocks([logits], labels, 3).top1 == pytest.approx(1 / 3)
    same = from_blocks([logits], labels, 3, torch.tensor([0, 1, 1]))
    assert same.top1 == pytest.approx(2 / 3)
    # Two different classes that tie stay wrong, and so does all of a collapsed model's.
    flat = torch.ones(3, 3)
    assert from_blocks([flat], labels, 3, torch.tensor([0, 1, 1])).top1 == 0
