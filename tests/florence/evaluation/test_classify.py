"""Metrics against counting by hand (science.md E1) and prompt ensembling (E2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from florence.config import architecture_of
from florence.errors import DataError
from florence.evaluation import classify, ranking
from florence.models.two_tower import TwoTower, build_model


def brute_force(scores: list[list[float]], labels: list[int]) -> dict[str, object]:
    """Sort the candidates of every image, rivals before the right class where they tie."""
    classes = len(scores[0])
    hits1, hits5 = [], []
    confusion = [[0] * classes for _ in range(classes)]
    per_class: dict[int, list[bool]] = {}
    for row, label in zip(scores, labels, strict=True):
        order = sorted(range(classes), key=lambda c, row=row, y=label: (-row[c], c == y))
        hits1.append(order[0] == label)
        hits5.append(label in order[:5])
        confusion[label][row.index(max(row))] += 1
        per_class.setdefault(label, []).append(order[0] == label)
    return {
        "top1": np.mean(hits1),
        "top5": np.mean(hits5),
        "mean_per_class": np.mean([np.mean(hits) for hits in per_class.values()]),
        "confusion": confusion,
    }


@st.composite
def small_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Small integers: their products are exact, so ties are ties in any order of summation."""
    images, classes, width = (draw(st.integers(1, n)) for n in (12, 9, 4))
    numbers = st.integers(-2, 2)

    def matrix(rows: int) -> Tensor:
        values = draw(st.lists(numbers, min_size=rows * width, max_size=rows * width))
        return torch.tensor(values, dtype=torch.float32).reshape(rows, width)

    labels = draw(st.lists(st.integers(0, classes - 1), min_size=images, max_size=images))
    return matrix(images), matrix(classes), torch.tensor(labels)


@given(small_problems())
@settings(deadline=None)
def test_metrics_equal_brute_force(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    images, classes, labels = problem
    scores = (images.double() @ classes.double().T).tolist()
    expected = brute_force(scores, labels.tolist())
    result = classify.zero_shot(images, classes, labels)
    assert result.top1 == pytest.approx(expected["top1"], abs=1e-12)
    assert result.top5 == pytest.approx(expected["top5"], abs=1e-12)
    assert result.mean_per_class == pytest.approx(expected["mean_per_class"], abs=1e-12)
    assert result.confusion.tolist() == expected["confusion"]


def test_blocks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images, classes = (torch.randn(n, 8, generator=generator) for n in (53, 11))
    labels = torch.randint(11, (53,), generator=generator)
    whole = classify.zero_shot(images, classes, labels)
    monkeypatch.setattr(classify, "rows_per_block", lambda columns: 7)
    parts = classify.zero_shot(images, classes, labels)
    assert (parts.top1, parts.top5, parts.mean_per_class) == (
        whole.top1,
        whole.top5,
        whole.mean_per_class,
    )
    assert torch.equal(parts.confusion, whole.confusion)


def test_a_collapsed_model_and_nan_are_wrong_not_right() -> None:
    same = torch.ones(4, 3)
    assert classify.zero_shot(same, same, torch.arange(4)).top1 == 0
    broken = torch.full((4, 3), math.nan)
    result = classify.zero_shot(broken, torch.eye(3), torch.tensor([0, 1, 2, 0]))
    assert (result.top1, result.top5) == (0, 0)


def test_labels_without_a_class_are_refused() -> None:
    with pytest.raises(DataError, match="label 3 names none of the 3 classes"):
        classify.zero_shot(torch.eye(3), torch.eye(3), torch.tensor([0, 3, 1]))
    with pytest.raises(DataError, match="no images"):
        classify.zero_shot(torch.zeros(0, 3), torch.eye(3), torch.zeros(0, dtype=torch.int64))


def test_rows_per_block_never_is_zero() -> None:
    assert ranking.rows_per_block(10**9) == 1
    assert ranking.rows_per_block(0) >= 1
    assert ranking.rows_per_block(25_000) * 25_000 <= ranking.SCORES_PER_BLOCK


@given(st.permutations(range(6)), st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_ensemble_does_not_depend_on_the_order_or_length_of_its_members(
    order: Sequence[int], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    members = torch.randn(3, 6, 5, generator=generator)
    lengths = 0.1 + 10 * torch.rand(3, 6, 1, generator=generator)
    expected = classify.ensemble(members)
    torch.testing.assert_close(classify.ensemble(members[:, list(order)] * lengths), expected)
    unit = members / np.linalg.norm(members.numpy(), axis=-1, keepdims=True)
    mean = unit.numpy().mean(axis=1)
    mean /= np.linalg.norm(mean, axis=-1, keepdims=True)
    np.testing.assert_allclose(expected.numpy(), mean, atol=1e-5)


def words(texts: Sequence[str], context: int) -> Tensor:
    """A tokenizer for tests: a character is a token, "!" is 0 as in CLIP's vocabulary."""
    ids = torch.zeros(len(texts), context, dtype=torch.int64)
    for row, text in zip(ids, texts, strict=True):
        tokens = [49_406, *(0 if c == "!" else ord(c) for c in text[: context - 2]), 49_407]
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return build_model(architecture_of("coswin-nano"), seed=3)


def test_a_single_template_is_the_plain_text(model: TwoTower) -> None:
    classes = ["cat", "a dog!!", "x"]
    made = classify.class_embeddings(model, words, classes, ["this is {}"])
    with torch.no_grad():
        plain = model.eval().encode_text(words([f"this is {name}" for name in classes], 77))
    torch.testing.assert_close(made, F.normalize(plain, dim=-1), atol=1e-6, rtol=0)


def test_class_embeddings_are_the_ensemble_of_every_template(model: TwoTower) -> None:
    templates = ["{}", "a photo of {}, not", "!{}!!"]
    made = classify.class_embeddings(model, words, ["one", "two"], templates, batch_size=2)
    with torch.no_grad():
        for row, name in zip(made, ["one", "two"], strict=True):
            each = [
                model.encode_text(words([t.replace("{}", name)], 77))[0].double() for t in templates
            ]
            mean = torch.stack([v / v.norm() for v in each]).mean(0)
            torch.testing.assert_close(row.double(), mean / mean.norm(), atol=1e-6, rtol=0)
