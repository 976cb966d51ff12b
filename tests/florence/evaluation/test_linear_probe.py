"""The linear probe against scikit-learn, a full grid and data with known answers (E3)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from florence.errors import DataError
from florence.evaluation.linear_probe import (
    clip_strengths,
    coarse_to_fine,
    linear_probe,
    probe_score,
    stratified_split,
)

CLASSES = 4


def blobs(
    count: int, seed: int, *, spread: float = 1.0, distance: float = 1.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Gaussian classes around corners; ``spread / distance`` is how much they overlap."""
    rng = np.random.default_rng(seed)
    centres = distance * np.eye(CLASSES, 12)
    labels = rng.integers(0, CLASSES, count)
    return (centres[labels] + spread * rng.normal(size=(count, 12))).astype(np.float32), labels


def test_separable_data_is_recovered() -> None:
    train, labels = blobs(120, 0, spread=0.05)
    test, truth = blobs(400, 1, spread=0.05)
    probe = linear_probe(train, labels, classes=CLASSES)
    assert probe_score(probe.logits(test), truth) == 1.0
    assert probe.validation_score == 1.0
    assert probe.weight.shape == (CLASSES, 12)
    assert probe.bias.shape == (CLASSES,)


def test_the_search_finds_what_a_full_grid_finds() -> None:
    train, validation = blobs(60, 2), blobs(400, 3)
    grid = np.logspace(-4, 4, 33)
    probe = linear_probe(*train, classes=CLASSES, validation=validation, strengths=grid, coarse=5)
    scores = [
        LogisticRegression(C=1 / strength, max_iter=1000).fit(*train).score(*validation)
        for strength in grid
    ]
    assert probe.validation_score == pytest.approx(max(scores))
    assert scores[int(np.argmin(np.abs(grid - probe.strength)))] == pytest.approx(max(scores))
    assert len(probe.curve) < len(grid)
    for strength, score in probe.curve:
        assert scores[int(np.argmin(np.abs(grid - strength)))] == pytest.approx(score)


def noisy_rule(
    count: int, seed: int, wrong: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features of falling variance, classes by a linear rule, a fraction of them drawn anew."""
    rng = np.random.default_rng(seed)
    scale = np.geomspace(1, 0.05, 30)
    rule = np.random.default_rng(99).normal(size=(CLASSES, 30)) / scale
    features = rng.normal(size=(count, 30)) * scale
    labels = (features @ rule.T).argmax(1)
    other = rng.integers(0, CLASSES, count)
    return features.astype(np.float32), np.where(rng.random(count) < wrong, other, labels)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_curve_climbs_to_the_choice_and_falls_after_it(seed: int) -> None:
    held_out = noisy_rule(6000, 100 + seed, 0.0)
    probe = linear_probe(*noisy_rule(400, seed, 0.4), classes=CLASSES, validation=held_out)
    before = [score for strength, score in probe.curve if strength <= probe.strength]
    after = [score for strength, score in probe.curve if strength >= probe.strength]
    noise = 12 / 6000  # so many images may go the other way between neighbours
    assert all(b >= a - noise for a, b in itertools.pairwise(before))
    assert all(b <= a + noise for a, b in itertools.pairwise(after))
    assert after[0] > after[-1] + 0.3


def test_the_last_fit_is_that_of_scikit_learn_on_both_parts() -> None:
    train, validation, test = blobs(50, 6), blobs(70, 7), blobs(500, 8)
    probe = linear_probe(*train, classes=CLASSES, validation=validation)
    features = np.concatenate([train[0], validation[0]])
    labels = np.concatenate([train[1], validation[1]])
    reference = LogisticRegression(C=1 / probe.strength, max_iter=1000).fit(features, labels)
    np.testing.assert_allclose(probe.weight, reference.coef_, atol=1e-6)
    predicted = probe.logits(test[0]).argmax(1)
    assert (predicted == reference.predict(test[0])).mean() > 0.999


@given(st.integers(1, 97), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=200)
def test_coarse_to_fine_is_a_full_search_where_there_is_one_peak(
    count: int, coarse: int, data: st.DataObject
) -> None:
    peak = data.draw(st.integers(0, count - 1))
    slope = data.draw(st.floats(0.1, 3.0))
    best, tried = coarse_to_fine(lambda i: -slope * abs(i - peak), count, coarse)
    assert best == peak
    assert all(0 <= i < count for i in tried)


def test_clips_search_takes_15_of_97_fits_and_starts_at_the_decades() -> None:
    grid = clip_strengths()
    np.testing.assert_allclose(grid[::16], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    order: list[int] = []

    def score(index: int) -> float:
        order.append(index)
        return -abs(index - 37.0)

    assert coarse_to_fine(score, len(grid))[0] == 37
    assert order[:7] == list(range(0, 97, 16))
    assert len(order) == len(set(order)) == 15


def test_the_strongest_of_equally_good_strengths_is_taken() -> None:
    best, tried = coarse_to_fine(lambda i: float(i <= 50), 97)
    assert best == 50
    assert tried[best] == 1


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=60),
    st.floats(0.05, 0.9),
    st.integers(0, 2**20),
)
@settings(deadline=None)
def test_the_split_is_stratified_seeded_and_complete(
    labels: list[int], fraction: float, seed: int
) -> None:
    array = np.array(labels)
    counts = np.bincount(array)
    if counts.max() < 2:
        with pytest.raises(DataError, match="no class has two images"):
            stratified_split(array, fraction, seed)
        return
    kept, held = stratified_split(array, fraction, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        out = int((array[held] == label).sum())
        assert abs(out - fraction * count) < 1 or out in (1, count - 1)
        assert (out > 0) == (count > 1)
        assert out < count or count == 0
    again = stratified_split(array, fraction, seed)
    assert np.array_equal(again[0], kept)


def test_several_classes_an_image_are_fitted_one_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(3, 10))
    features = rng.normal(size=(600, 10)).astype(np.float32)
    labels = np.concatenate([features @ directions.T > 1.0, np.zeros((600, 1), bool)], axis=1)
    probe = linear_probe(features[:300], labels[:300], classes=4)
    assert probe_score(probe.logits(features[300:])[:, :3], labels[300:, :3]) > 0.95
    assert not probe.weight[3].any()
    assert probe.validation_score > 0.9


def test_a_class_without_images_never_wins_and_two_classes_are_two_rows() -> None:
    features, labels = blobs(90, 9, spread=0.1)
    two = labels < 2
    probe = linear_probe(features[two], labels[two], classes=CLASSES)
    logits = probe.logits(features)
    assert set(logits.argmax(1).tolist()) == {0, 1}
    assert np.isfinite(probe.bias).all()
    reference = LogisticRegression(C=1 / probe.strength, max_iter=1000).fit(
        features[two], labels[two]
    )
    np.testing.assert_allclose(
        logits[:, 1] - logits[:, 0], reference.decision_function(features), atol=1e-4
    )


def test_features_that_cannot_be_fitted_are_refused() -> None:
    features, labels = blobs(30, 10)
    with pytest.raises(DataError, match="all of one class"):
        linear_probe(features, np.zeros_like(labels), classes=CLASSES)
    with pytest.raises(DataError, match=r"not all in \[0, 3\)"):
        linear_probe(features, labels, classes=3)
    with pytest.raises(DataError, match="do not fit labels"):
        linear_probe(features[1:], labels, classes=CLASSES)
    broken = features.copy()
    broken[3, 3] = np.nan
    with pytest.raises(DataError, match="not finite"):
        linear_probe(broken, labels, classes=CLASSES)


def test_every_fit_is_watched_and_may_be_stopped() -> None:
    features, labels = blobs(60, 11)
    seen: list[float] = []

    def watch(strength: float, score: float) -> None:
        seen.append(strength)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        linear_probe(features, labels, classes=CLASSES, watch=watch)
    np.testing.assert_allclose(seen, [1e-6, 1e-4, 1e-2])


def test_of_strengths_without_a_mistake_the_likeliest_wins() -> None:
    """Separable data: accuracy is 1 over many decades, and neither end of them is meant."""
    generator = np.random.default_rng(3)
    labels = np.arange(120) % 3
    centres = np.eye(3)[labels] * 4
    probe = linear_probe(centres + generator.normal(size=(120, 3)) * 0.3, labels, classes=3)
    assert probe.validation_score == 1.0
    perfect = [strength for strength, value in probe.curve if value == 1.0]
    assert len(perfect) > 3
    assert probe.strength < max(perfect)
