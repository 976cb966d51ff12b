"""Ranks of videos and texts, with ties, against loops over every candidate (test K7)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.config import RetrievalLabel
from florence.evaluation.video_text_retrieval import SHARPNESS, retrieval_metrics, right_pairs


def brute_force(scores: np.ndarray, right: np.ndarray) -> list[int]:
    """The rank from 1 of each row's best right candidate; equal wrong ones come first."""
    ranks = []
    for row, is_right in zip(scores, right, strict=True):
        best = max(score for score, yes in zip(row, is_right, strict=True) if yes)
        before = sum(1 for score, yes in zip(row, is_right, strict=True) if not yes)
        after = sum(1 for score, yes in zip(row, is_right, strict=True) if not yes and score < best)
        ranks.append(1 + before - after)
    return ranks


def sharpened(scores: np.ndarray) -> np.ndarray:
    """Each score times its share among the scores of its column."""
    shares = np.empty_like(scores)
    for column in range(scores.shape[1]):
        powers = np.exp(SHARPNESS * (scores[:, column] - scores[:, column].max()))
        shares[:, column] = powers / powers.sum()
    return scores * shares


@settings(max_examples=60, deadline=None)
@given(
    owners=st.lists(st.integers(0, 5), min_size=0, max_size=10),
    kinds=st.lists(st.integers(0, 3), min_size=16, max_size=16),
    label=st.sampled_from(list(RetrievalLabel)),
    levels=st.integers(1, 6),
    seed=st.integers(0, 2**31),
    dual=st.booleans(),
)
def test_ranks_equal_brute_force(
    owners: list[int], kinds: list[int], label: RetrievalLabel, levels: int, seed: int, dual: bool
) -> None:
    """Few levels of scores, so that many are equal; every clip has a text at least.

    With the dual softmax all scores differ: products of equal ones are equal but for rounding.
    """
    owners = [*range(6), *owners]
    texts = [f"text {kind}" for kind, _ in zip(kinds, owners, strict=False)]
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (len(owners), 6)).astype(np.float64) / levels
    if dual:
        scores = random.permutation(scores.size).reshape(scores.shape) / 1000
    expected = np.array(
        [
            [
                clip == owner
                or (
                    label is RetrievalLabel.TEXT
                    and any(t == text and o == clip for t, o in zip(texts, owners, strict=True))
                )
                for clip in range(6)
            ]
            for text, owner in zip(texts, owners, strict=True)
        ]
    )
    right = right_pairs(texts, torch.tensor(owners), 6, label)
    assert np.array_equal(right.numpy(), expected)
    found = retrieval_metrics(torch.from_numpy(scores), right, dual_softmax=dual)
    for way, table, truth in (
        ("textToVideo", scores, expected),
        ("videoToText", scores.T, expected.T),
    ):
        ranks = brute_force(sharpened(table) if dual else table, truth)
        for k in (1, 5, 10):
            assert found[f"{way}/R@{k}"] == pytest.approx(np.mean([rank <= k for rank in ranks]))
        assert found[f"{way}/medianRank"] == pytest.approx(np.median(ranks))
        assert found[f"{way}/meanRank"] == pytest.approx(np.mean(ranks))


def test_dual_softmax_prefers_the_query_that_wants_a_candidate_most() -> None:
    """Both texts are nearest to the first clip; the second text has it by far."""
    scores = torch.tensor([[0.50, 0.49], [0.60, 0.30]])
    right = torch.tensor([[False, True], [True, False]])
    assert retrieval_metrics(scores, right)["textToVideo/R@1"] == 0.5
    assert retrieval_metrics(scores, right, dual_softmax=True)["textToVideo/R@1"] == 1
