"""Answers are normalised and scored as the challenge's evaluation program does it."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.text.answers import (
    accuracy,
    majority,
    normalised,
    score,
    soft_targets,
    vocabulary_of,
)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Two", "2"),
        ("none", "0"),
        ("ten", "10"),
        ("eleven", "eleven"),
        ("the dog", "dog"),
        ("A man and an umbrella", "man and umbrella"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),  # two apostrophes are missing: not in its list
        ("couldn'tve", "couldn't've"),
        ("y'alld've", "y'all'd've"),
        ("twas", "'twas"),
        ("somebody'd", "somebodyd"),  # as the program has it
        ("Im", "im"),  # its list has capitals, which lower case never meets
        ("yes.", "yes"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("e.g.", "eg"),
        ("1,000", "1000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("red , blue,green", "red bluegreen"),  # one beside a space deletes all of its sort
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000 black/white", "1000 blackwhite"),  # a digit comma deletes every mark
        ("t-shirt", "t shirt"),
        ("what?", "what"),
        ("(left)", "left"),
        ("it's", "it's"),
        (" two\tdogs\nrun ", "2 dogs run"),
        ("9:30", "9:30"),
        ("", ""),
        ("the", ""),
        ("café", "café"),
    ],
)
def test_normalisation(answer: str, expected: str) -> None:
    assert normalised(answer) == expected


def leave_one_out(answer: str, annotators: list[str]) -> Fraction:
    """The formula as it is written: the mean over sets of all annotators but one."""
    scores = []
    for left_out in range(len(annotators)):
        others = annotators[:left_out] + annotators[left_out + 1 :]
        scores.append(min(Fraction(others.count(answer), 3), Fraction(1)))
    return sum(scores, Fraction(0)) / len(scores)


def test_the_ladder_is_the_formula_by_enumeration() -> None:
    for matches, annotators in itertools.product(range(11), range(2, 11)):
        if matches <= annotators:
            given_answers = ["x"] * matches + ["y"] * (annotators - matches)
            expected = leave_one_out("x", given_answers)
            assert score(matches, annotators) == pytest.approx(float(expected), abs=1e-12)
    ladder = [score(matches, 10) for matches in range(11)]
    assert ladder == pytest.approx([0, 0.3, 0.6, 0.9] + [1.0] * 7)
    assert (score(1, 1), score(0, 1)) == (1.0, 0.0)


WORDS = st.lists(
    st.sampled_from(["cat", "Cat.", "two", "2", "the cat", "dog"]), min_size=10, max_size=10
)


@given(WORDS, st.sampled_from(["cat", "2", "dog", "bird"]))
def test_accuracy_is_the_formula_over_normalised_answers(answers: list[str], answer: str) -> None:
    if len(set(answers)) > 1:
        expected = leave_one_out(answer, [normalised(each) for each in answers])
    else:
        expected = leave_one_out(answer, answers)
    assert accuracy(answer, answers) == pytest.approx(float(expected))


def test_ten_identical_answers_are_compared_as_they_are() -> None:
    assert accuracy("2", ["two"] * 10) == 0.0
    assert accuracy("two", ["two"] * 10) == 1.0
    assert accuracy("2", ["two"] * 9 + ["2"]) == 1.0


@given(WORDS)
def test_soft_targets_are_accuracies_of_known_answers(answers: list[str]) -> None:
    vocabulary = {"cat": 0, "2": 1}
    targets = soft_targets(answers, vocabulary)
    if len(set(answers)) > 1:
        for answer, number in vocabulary.items():
            assert targets.get(number, 0.0) == pytest.approx(accuracy(answer, answers))
    assert set(targets) <= {0, 1}


def test_the_vocabulary_is_of_frequent_majorities() -> None:
    assert majority(["Two", "2", "three"]) == "2"
    assert majority(["b", "a"]) == "b"
    said = ["yes"] * 3 + ["no"] * 3 + ["2"] * 4 + ["rare"] + [""] * 9
    assert vocabulary_of(said, 3) == ("2", "no", "yes")
    assert vocabulary_of(said, 5) == ()
