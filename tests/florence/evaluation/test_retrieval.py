"""Recall at K against sorting by hand (science.md E5)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from florence.errors import DataError
from florence.evaluation.retrieval import recall_at_k, recall_of_texts


def brute_force(
    images: Tensor, texts: Tensor, image_of_text: list[int], k: int
) -> tuple[float, float]:
    """Both recalls from full sorted lists; what is foreign comes first where scores tie."""
    scores = (images.double() @ texts.double().T).tolist()
    hits = []
    for image, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda t: (-row[t], image_of_text[t] == image))
        hits.append(any(image_of_text[t] == image for t in order[:k]))
    image_to_text = sum(hits) / len(hits)
    hits = []
    for text, own in enumerate(image_of_text):
        column = [row[text] for row in scores]
        order = sorted(range(len(column)), key=lambda i: (-column[i], i == own))
        hits.append(own in order[:k])
    return image_to_text, sum(hits) / len(hits)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[int]]:
    """A few captions for each image, in any order; small integers, so that many scores tie."""
    images = draw(st.integers(1, 14))
    counts = draw(st.lists(st.integers(1, 5), min_size=images, max_size=images))
    owners = draw(st.permutations([i for i, n in enumerate(counts) for _ in range(n)]))
    width = draw(st.integers(1, 3))

    def matrix(rows: int) -> Tensor:
        values = st.lists(st.integers(-2, 2), min_size=rows * width, max_size=rows * width)
        return torch.tensor(draw(values), dtype=torch.float32).reshape(rows, width)

    return matrix(images), matrix(len(owners)), list(owners)


@given(problems(), st.integers(1, 40))
@settings(deadline=None, max_examples=200)
def test_recalls_equal_brute_force(problem: tuple[Tensor, Tensor, list[int]], block: int) -> None:
    images, texts, owners = problem
    result = recall_at_k(images, texts, torch.tensor(owners), scores_per_block=block)
    for k in (1, 5, 10):
        expected = brute_force(images, texts, owners, k)
        assert (result.image_to_text[k], result.text_to_image[k]) == pytest.approx(expected)


def test_five_captions_per_image() -> None:
    """Image i's captions point at it ever less; only image 2's are all nearer to image 0."""
    images = torch.eye(4)
    noise = torch.linspace(0, 0.4, 5)
    texts = torch.stack(
        [images[i] + noise[n] * images[(i + 1) % 4] for i in range(4) for n in range(5)]
    )
    owners = torch.arange(4).repeat_interleave(5)
    good = recall_at_k(images, texts, owners)
    assert good.image_to_text == good.text_to_image == {1: 1.0, 5: 1.0, 10: 1.0}
    texts[10:15] = images[0]
    bad = recall_at_k(images, texts, owners)
    # Image 0's best own caption ties with image 2's five, and a tie is lost.
    assert bad.image_to_text[1] == 0.5
    assert bad.text_to_image[1] == 0.75


def test_equal_embeddings_are_no_hit() -> None:
    result = recall_at_k(torch.ones(20, 2), torch.ones(40, 2), torch.arange(40) % 20)
    assert result.image_to_text == result.text_to_image == {1: 0.0, 5: 0.0, 10: 0.0}


def test_unusable_captions_are_refused() -> None:
    with pytest.raises(DataError, match="image 1 has no caption"):
        recall_at_k(torch.eye(3), torch.eye(3), torch.tensor([0, 2, 2]))
    with pytest.raises(DataError, match="names none of the 3 images"):
        recall_at_k(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 3]))
    with pytest.raises(DataError, match="no images"):
        recall_at_k(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))


def test_equal_captions_are_one_by_brute_force() -> None:
    """Whichever images have a caption are right for it, and it is right for them."""
    generator = torch.Generator().manual_seed(5)
    words = [f"caption {i % 4}" for i in range(18)]
    owners = torch.arange(18) // 2
    by_text = {text: torch.randn(6, generator=generator) for text in sorted(set(words))}
    texts = torch.nn.functional.normalize(torch.stack([by_text[w] for w in words]), dim=1)
    images = torch.nn.functional.normalize(torch.randn(9, 6, generator=generator), dim=1)
    result = recall_of_texts(images, texts, words, owners, ks=(1, 2, 3))
    unique = list(dict.fromkeys(words))
    scores = {w: images @ texts[words.index(w)] for w in unique}
    for k in (1, 2, 3):
        right = 0
        for word in unique:
            having = {int(owners[i]) for i, w in enumerate(words) if w == word}
            right += bool(having & set(scores[word].topk(k).indices.tolist()))
        assert result.text_to_image[k] == pytest.approx(right / len(unique))
        right = 0
        for image in range(9):
            own = {w for i, w in enumerate(words) if owners[i] == image}
            best = sorted(unique, key=lambda w: -float(scores[w][image]))[:k]
            right += bool(own & set(best))
        assert result.image_to_text[k] == pytest.approx(right / 9)


def test_without_equal_captions_both_protocols_agree() -> None:
    generator = torch.Generator().manual_seed(6)
    images, texts = torch.randn(7, 5, generator=generator), torch.randn(14, 5, generator=generator)
    owners = torch.arange(14) // 2
    one = recall_at_k(images, texts, owners)
    other = recall_of_texts(images, texts, [str(i) for i in range(14)], owners)
    assert one.image_to_text == other.image_to_text
    assert one.text_to_image == other.text_to_image
