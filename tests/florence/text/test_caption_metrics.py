"""Caption metrics equal the reference program's figures, and plain formulas on small cases."""

from __future__ import annotations

import math
import random

import pytest

from florence.text.caption_metrics import bleu, caption_metrics, cider_d, rouge_l, words_of

WORDS = ["a", "man", "dog", "rides", "the", "red", "wave", "on", "two", "cats", "and", "sits"]


def corpus() -> tuple[list[str], list[list[str]]]:
    """Forty images with one to five references and a caption each, of twelve words."""
    draw = random.Random(0)

    def text(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, most)))

    references = [[text(12) for _ in range(draw.randint(1, 5))] for _ in range(40)]
    captions = [text(10) for _ in range(40)]
    captions[3], captions[5] = references[3][0], "zebra"
    return captions, references


def test_the_figures_are_the_reference_programs() -> None:
    """The expected values are what pycocoevalcap 1.2 prints for these captions."""
    found = caption_metrics(*corpus())
    expected = {
        "cider": 0.7138443864828862,
        "bleu1": 0.6549527711564433,
        "bleu2": 0.29314163559455636,
        "bleu3": 0.1582477009598481,
        "bleu4": 0.11876943667232608,
        "rougeL": 0.38175391531943637,
    }
    assert found == pytest.approx(expected, abs=1e-9)


def test_words_are_lower_case_without_marks_and_split_as_the_treebank_does() -> None:
    text = "A man's dog isn't wet; they're (both) \"fine\", 3.5 m well-known -- O'Brien's."
    expected = [
        "a",
        "man",
        "'s",
        "dog",
        "is",
        "n't",
        "wet",
        "they",
        "'re",
        "both",
        "fine",
        "3.5",
        "m",
        "well-known",
        "o'brien",
        "'s",
    ]
    assert words_of(text) == tuple(expected)
    assert words_of(" .,! ") == ()


def test_a_caption_that_is_its_only_reference_is_perfect() -> None:
    captions = ["a red dog sits here", "two cats ride the wave", "some other words entirely now"]
    found = caption_metrics(captions, [[caption] for caption in captions])
    assert found["cider"] == pytest.approx(10)
    assert [found[f"bleu{n}"] for n in range(1, 5)] == pytest.approx([1] * 4, abs=1e-6)
    assert found["rougeL"] == pytest.approx(1)


def test_bleu_by_hand() -> None:
    """Two of three words are right, one pair of two, and the reference is a word longer."""
    one, two = bleu([("the", "red", "cat")], [[("the", "red", "dog", "sits")]])[:2]
    brevity = math.exp(1 - 4 / 3)
    assert one == pytest.approx(brevity * 2 / 3, abs=1e-6)
    assert two == pytest.approx(brevity * math.sqrt(2 / 3 * 1 / 2), abs=1e-6)
    clipped = bleu([("the", "the", "the")], [[("the", "cat", "is")]])[0]
    assert clipped == pytest.approx(1 / 3, abs=1e-6)


def test_rouge_by_hand() -> None:
    """The longest common subsequence of these is 'a b d': of four and of five words."""
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert rouge_l(("a", "x", "b", "d"), [("a", "b", "c", "d", "e")]) == pytest.approx(expected)
    assert rouge_l((), [("a",)]) == 0.0
    assert rouge_l(("x",), [("a",)]) == 0.0


def test_words_that_all_images_have_are_worth_nothing() -> None:
    known = [[("a", "dog")], [("a", "cat")]]
    assert cider_d([("a",), ("a",)], known) == [0.0, 0.0]
    better, worse = cider_d([("a", "dog"), ("a", "dog")], known)
    assert better > worse == 0.0


def test_an_empty_caption_scores_nothing_and_breaks_nothing() -> None:
    found = caption_metrics(["", "a dog"], [["a dog"], ["a dog", "the dog"]])
    assert all(math.isfinite(value) for value in found.values())
    assert cider_d([()], [[("a",)]]) == [0.0]
