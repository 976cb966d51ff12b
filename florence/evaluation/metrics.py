"""Numbers of a classification from scores and true classes; nothing here knows a model.

Top-1, top-5 and the mean per class are over images with one class each, the 11-point average
precision of Pascal VOC 2007 over images with several. A tie counts against the model everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from florence.errors import DataError
from florence.evaluation.ranking import hit_rate, pessimistic_ranks, rows_per_block

RECALL_LEVELS = 11
"""Recalls 0, 0.1, … 1 at which VOC 2007 reads the precision."""


@dataclass(frozen=True)
class ClassificationResult:
    """Accuracies are fractions of 1; ``confusion[t, p]`` counts images of t predicted as p."""

    top1: float
    top5: float
    mean_per_class: float
    confusion: Tensor


@dataclass(frozen=True)
class MultiLabelResult:
    """``average_precisions`` by class in [0, 1], NaN without images; ``mean`` of the others."""

    mean: float
    average_precisions: tuple[float, ...]


def from_logits(logits: Tensor, labels: Tensor) -> ClassificationResult:
    """Classify by the largest logit; right at k when fewer than k others are at least as large.

    Args:
        logits: ``(N, C)``, any range: a head's outputs, cosines, probabilities.
        labels: ``(N,)`` int64 in ``[0, C)``.

    Raises:
        DataError: there are no images, or a label names no class.
    """
    classes = logits.shape[1]
    return from_blocks(torch.split(logits.float(), rows_per_block(classes)), labels, classes)


def from_blocks(
    blocks: Iterable[Tensor], labels: Tensor, classes: int, same_as: Tensor | None = None
) -> ClassificationResult:
    """Like :func:`from_logits`, with rows that come in blocks, so that not all exist at once.

    Args:
        blocks: fp32 ``(n, C)`` each, in the order of ``labels``.
        labels: ``(N,)`` int64.
        classes: C.
        same_as: ``(C,)`` int64, the first class with the same text. A tie between classes that
            cannot be told apart goes to the first, as it does in the literature, and is no
            model's fault. Default: all differ.

    Raises:
        DataError: there are no images, or a label names no class.
    """
    check_labels(labels, classes)
    ranks, predicted = [], []
    start = 0
    for scores in blocks:
        own = labels[start : start + len(scores)]
        start += len(scores)
        ranks.append(_ranks(scores, own, same_as))
        predicted.append(scores.argmax(dim=1))
    rank, prediction = torch.cat(ranks), torch.cat(predicted)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    confusion.index_put_((labels, prediction), torch.ones_like(labels), accumulate=True)
    return ClassificationResult(
        top1=hit_rate(rank, 1),
        top5=hit_rate(rank, 5),
        mean_per_class=mean_per_class(rank == 0, labels),
        confusion=confusion,
    )


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse no labels at all, and labels outside ``[0, classes)``, with :class:`DataError`."""
    if not len(labels):
        raise DataError("classification: there are no images; check the data's URI")
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        wrong = sorted({int(y) for y in labels if not 0 <= int(y) < classes})
        raise DataError(
            f"classification: label {wrong[0]} names none of the {classes} classes of the prompts: "
            "list one class per label, in the order of the labels"
        )


def mean_per_class(correct: Tensor, labels: Tensor) -> float:
    """The mean over the classes that have images of the fraction of their images that are right.

    Args:
        correct: ``(N,)`` bool.
        labels: ``(N,)`` int64.
    """
    totals = torch.bincount(labels)
    hits = torch.bincount(labels[correct], minlength=len(totals))
    present = totals > 0
    return float((hits[present].double() / totals[present].double()).mean())


def mean_average_precision_11(
    scores: Tensor, truth: Tensor, ignored: Tensor | None = None
) -> MultiLabelResult:
    """VOC 2007's mean over classes of the 11-point average precision.

    Args:
        scores: ``(N, C)``, any range; only their order within a class matters.
        truth: ``(N, C)`` bool, whether the image has the class.
        ignored: ``(N, C)`` bool, pairs that count neither way (VOC's "difficult"). Default: none.

    Raises:
        DataError: no image has any class.
    """
    values = []
    for column in range(scores.shape[1]):
        kept = slice(None) if ignored is None else ~ignored[:, column]
        values.append(average_precision_11(scores[kept, column], truth[kept, column]))
    present = [value for value in values if value == value]
    if not present:
        raise DataError("classification: no image has any of the classes; check the data's labels")
    return MultiLabelResult(sum(present) / len(present), tuple(values))


def average_precision_11(scores: Tensor, truth: Tensor) -> float:
    """One class's 11-point interpolated average precision (Pascal VOC 2007).

    The mean over the recalls 0, 0.1, … 1 of the best precision at that recall or more. Of images
    with the same score those without the class come first; scores that are not numbers come last
    if they are of the class, and first if not.

    Args:
        scores: ``(N,)``.
        truth: ``(N,)`` bool.

    Returns:
        A value in [0, 1]; NaN when no image has the class.
    """
    positives = int(truth.sum())
    if not positives:
        return float("nan")
    worst = torch.where(truth, -torch.inf, torch.inf)
    values = torch.where(scores.isnan(), worst, scores.double())
    # Stable, so the second sort keeps the first's order among equal scores.
    order = truth.to(torch.int8).argsort(stable=True)
    order = order[values[order].argsort(descending=True, stable=True)]
    hits = truth[order].long().cumsum(0)
    precision = hits.double() / torch.arange(1, len(hits) + 1, dtype=torch.float64)
    # In whole numbers: 3 / 10 is less than 0.1 * 3 in floating point.
    last = RECALL_LEVELS - 1
    best = [
        float(precision[hits * last >= level * positives].max()) for level in range(RECALL_LEVELS)
    ]
    return sum(best) / RECALL_LEVELS


def _ranks(scores: Tensor, own: Tensor, same_as: Tensor | None) -> Tensor:
    columns = torch.arange(scores.shape[1])
    rivals = columns != own[:, None]
    if same_as is not None:
        later = columns > own[:, None]
        rivals &= ~(later & (same_as == same_as[own][:, None]))
    return pessimistic_ranks(scores, scores.gather(1, own[:, None])[:, 0], rivals)
