"""The linear probe of CLIP's paper: how much a linear classifier gets out of frozen features.

Multinomial logistic regression by L-BFGS, its L2 strength searched on a validation part, then
fitted again to both parts. Nothing here knows a model or an image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from florence.errors import DataError
from florence.evaluation.metrics import mean_average_precision_11

Score = tuple[float, float]
"""How good a strength is: accuracy or mAP, then the log-likelihood."""

ScoreT = TypeVar("ScoreT", float, Score)

Floats = NDArray[np.float32] | NDArray[np.float64]

LOWEST, HIGHEST, STEPS = 1e-6, 1e6, 96
"""L2 strengths that CLIP searches: 96 equal steps of the logarithm (8 a decade) are 97 points."""

COARSE = 7
"""Points of the first pass over them: every 16th, which are 1e-6, 1e-4, … 1e6."""

ITERATIONS = 1000

NEVER = -1e9
"""The bias of a class that no row has: finite, so that the head can be stored and trained on."""


@dataclass(frozen=True)
class Probe:
    """A linear head: ``features @ weight.T + bias`` are logits."""

    weight: NDArray[np.float64]
    """``(C, D)``."""
    bias: NDArray[np.float64]
    """``(C,)``."""
    strength: float
    """The L2 strength λ of the last fit; scikit-learn's C is 1/λ."""
    validation_score: float
    """Of the chosen strength, fitted to the training part: accuracy or mAP, a fraction of 1."""
    curve: tuple[tuple[float, float], ...]
    """Every (strength, validation score) that was tried, by strength."""

    def logits(self, features: Floats) -> NDArray[np.float64]:
        """``(N, D)`` features to ``(N, C)`` logits."""
        return np.asarray(features, np.float64) @ self.weight.T + self.bias


def linear_probe(
    train: Floats,
    train_labels: NDArray[np.int64] | NDArray[np.bool_],
    *,
    classes: int,
    validation: tuple[Floats, NDArray[np.int64] | NDArray[np.bool_]] | None = None,
    validation_fraction: float = 0.2,
    strengths: NDArray[np.float64] | None = None,
    coarse: int = COARSE,
    max_iterations: int = ITERATIONS,
    seed: int = 0,
    watch: Callable[[float, float], None] = lambda strength, score: None,
) -> Probe:
    """Fit a linear classifier to features by CLIP's protocol.

    With labels ``(N,)`` int64 it is one multinomial regression, judged by accuracy; with labels
    ``(N, C)`` bool (several classes an image, VOC 2007) one regression per class, judged by the
    11-point mAP. A class that no row has gets weights of zero and a bias that never wins.

    Args:
        train: ``(N, D)``: what the tower gives before the projection.
        train_labels: ``(N,)`` in ``[0, classes)``, or ``(N, classes)``.
        classes: C.
        validation: features and labels to search with. Default: a part of ``train``.
        validation_fraction: that part, in (0, 1); stratified by class, from ``seed``.
        strengths: the L2 strengths λ to choose from, ascending. Default: CLIP's.
        coarse: how many of them, evenly spaced, the search starts with.
        max_iterations: of L-BFGS.
        seed: of the validation part.
        watch: called after every fit of the search with the strength and its score; may raise.

    Raises:
        DataError: features and labels do not fit together, are not finite, or hold one class only.
    """
    check_features(train, train_labels, classes, "training")
    if validation is None:
        kept, held = stratified_split(train_labels, validation_fraction, seed)
        fit_x, fit_y = train[kept], train_labels[kept]
        test_x, test_y = train[held], train_labels[held]
    else:
        fit_x, fit_y = train, train_labels
        test_x, test_y = validation
        check_features(test_x, test_y, classes, "validation")
    grid = clip_strengths() if strengths is None else np.asarray(strengths, np.float64)

    def score(index: int) -> Score:
        strength = float(grid[index])
        weight, bias = _fit(fit_x, fit_y, classes, strength, max_iterations)
        logits = np.asarray(test_x, np.float64) @ weight.T + bias
        value = probe_score(logits, test_y)
        watch(strength, value)
        return value, -_log_loss(logits, test_y)

    best, tried = coarse_to_fine(score, len(grid), coarse)
    both_x, both_y = np.concatenate([fit_x, test_x]), np.concatenate([fit_y, test_y])
    weight, bias = _fit(both_x, both_y, classes, float(grid[best]), max_iterations)
    curve = tuple((float(grid[index]), tried[index][0]) for index in sorted(tried))
    return Probe(weight, bias, float(grid[best]), tried[best][0], curve)


def clip_strengths() -> NDArray[np.float64]:
    """The 97 strengths of CLIP's search, ascending from 1e-6 to 1e6."""
    return np.logspace(np.log10(LOWEST), np.log10(HIGHEST), STEPS + 1)


def coarse_to_fine(
    score: Callable[[int], ScoreT], count: int, coarse: int = COARSE
) -> tuple[int, dict[int, ScoreT]]:
    """The best of ``count`` points on a line, trying few: evenly spaced ones, then ever closer.

    After the first pass the neighbourhood of the best point is halved until its neighbours have
    been tried. Of equal scores the highest index (the strongest regularisation) wins. With one
    peak the result is that of trying all.

    Args:
        score: of a point in ``[0, count)``; higher is better, the second part where the first is
            equal: on easy data many strengths make no mistake, and their likelihoods differ.
        count: at least 1.
        coarse: points of the first pass.

    Returns:
        The best index, and every score that was computed by index.
    """
    first = np.unique(np.linspace(0, count - 1, min(coarse, count)).round().astype(int))
    tried = {int(index): score(int(index)) for index in first}
    step = int(np.diff(first).max()) if len(first) > 1 else 1
    while True:
        best = max(tried, key=lambda index: (tried[index], index))
        step = -(-step // 2)
        near = [i for i in (best - step, best + step) if 0 <= i < count and i not in tried]
        for index in near:
            tried[index] = score(index)
        if step == 1 and not near:
            return best, tried


def stratified_split(
    labels: NDArray[np.int64] | NDArray[np.bool_], fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to fit and rows to hold out, both ascending; a function of its arguments alone.

    Of every class with two rows or more, at least one is held out and at least one kept. Rows with
    several classes are grouped by the rarest of them; those with none are a group of their own.

    Args:
        labels: ``(N,)`` int64 or ``(N, C)`` bool.
        fraction: of every class to hold out, in (0, 1).
        seed: of the choice.

    Raises:
        DataError: no class has two rows.
    """
    groups = labels if labels.ndim == 1 else _rarest_class(labels)
    generator = np.random.default_rng(seed)
    held: list[int] = []
    for group in np.unique(groups):
        rows = generator.permutation(np.flatnonzero(groups == group))
        if len(rows) > 1:
            held += rows[: min(len(rows) - 1, max(1, round(fraction * len(rows))))].tolist()
    if not held:
        raise DataError("linear probe: no class has two images: give validation data")
    chosen = np.zeros(len(groups), np.bool_)
    chosen[held] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def probe_score(
    logits: NDArray[np.float64], labels: NDArray[np.int64] | NDArray[np.bool_]
) -> float:
    """Accuracy of ``(N,)`` labels, 11-point mAP of ``(N, C)`` ones; a fraction of 1."""
    if labels.ndim == 2:
        return mean_average_precision_11(torch.from_numpy(logits), torch.from_numpy(labels)).mean
    return float((logits.argmax(axis=1) == labels).mean())


def _log_loss(logits: NDArray[np.float64], labels: NDArray[np.int64] | NDArray[np.bool_]) -> float:
    """Mean cross-entropy of ``(N,)`` labels; 0 for several classes an image, whose mAPs differ."""
    if labels.ndim == 2:
        return 0.0
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


def check_features(
    features: Floats, labels: NDArray[np.int64] | NDArray[np.bool_], classes: int, part: str
) -> None:
    """Refuse features that no classifier can be fitted to, with :class:`DataError`."""
    if features.ndim != 2 or len(features) != len(labels) or not len(features):
        raise DataError(
            f"linear probe: {part} features {features.shape} do not fit labels {labels.shape}"
        )
    if not np.isfinite(features).all():
        raise DataError(f"linear probe: {part} features are not finite: check the model")
    if labels.ndim == 2:
        if labels.shape[1] != classes:
            raise DataError(
                f"linear probe: {part} labels name {labels.shape[1]} of {classes} classes"
            )
    elif labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"linear probe: {part} labels are not all in [0, {classes})")
    elif part == "training" and len(np.unique(labels)) < 2:
        raise DataError("linear probe: the training images are all of one class")


def _rarest_class(labels: NDArray[Any]) -> NDArray[np.int64]:
    counts = np.where(labels, labels.sum(axis=0), np.iinfo(np.int64).max)
    return np.where(labels.any(axis=1), counts.argmin(axis=1), -1).astype(np.int64)


def _fit(
    features: Floats,
    labels: NDArray[np.int64] | NDArray[np.bool_],
    classes: int,
    strength: float,
    iterations: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weight ``(C, D)`` and bias ``(C,)`` of one strength."""
    weight = np.zeros((classes, features.shape[1]))
    bias = np.full(classes, NEVER)
    if labels.ndim == 2:
        for number in range(classes):
            column = labels[:, number]
            if column.any() and not column.all():
                found = _regression(features, column, strength, iterations)
                weight[number], bias[number] = found.coef_[0], found.intercept_[0]
            else:
                bias[number] = 0.0  # ranks no image before another
        return weight, bias
    found = _regression(features, labels, strength, iterations)
    if len(found.classes_) == 2:  # scikit-learn keeps the difference of the two only
        weight[found.classes_] = np.stack([-found.coef_[0] / 2, found.coef_[0] / 2])
        bias[found.classes_] = np.array([-found.intercept_[0] / 2, found.intercept_[0] / 2])
        return weight, bias
    weight[found.classes_], bias[found.classes_] = found.coef_, found.intercept_
    return weight, bias


def _regression(
    features: Floats, labels: NDArray[np.generic], strength: float, iterations: int
) -> LogisticRegression:
    with warnings.catch_warnings():
        # A limit of iterations is part of the protocol, at weak regularisation most runs reach it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=1 / strength, solver="lbfgs", max_iter=iterations).fit(
            features, labels
        )
