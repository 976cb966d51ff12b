"""Answers to questions about images, as the VQA challenge compares and scores them.

The rules and their order are those of the challenge's evaluation program, with its peculiarities:
other code that is cleaner gives other accuracies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_FULL_STOPS = 32
_NUMBERS = {
    "none": "0",
    **{
        word: str(number)
        for number, word in enumerate(
            ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        )
    },
}
_ARTICLES = frozenset(("a", "an", "the"))
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
haven't he'd he's he'd've how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
you've
"""


def _without_one_apostrophe(word: str) -> Iterable[str]:
    return (word[:i] + word[i + 1 :] for i, mark in enumerate(word) if mark == "'")


_CONTRACTIONS = {
    **{short: word for word in _CONTRACTED.split() for short in _without_one_apostrophe(word)},
    "somebody'd": "somebodyd",  # so the program has it
}


def stripped(answer: str) -> str:
    """An answer with white space as spaces, without those at its ends."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


def normalised(answer: str) -> str:
    """An answer as answers are compared: marks, case, number words, articles, contractions.

    A mark is deleted where the answer has one of its sort beside a space, or a comma between
    digits; else it becomes a space. Full stops stay before digits only.
    """
    answer = stripped(answer)
    text = answer
    has_digit_comma = _DIGIT_COMMA.search(answer) is not None
    for mark in _MARKS:
        beside_space = f"{mark} " in answer or f" {mark}" in answer
        text = text.replace(mark, "" if beside_space or has_digit_comma else " ")
    text = _FULL_STOP.sub("", text, count=_MOST_FULL_STOPS)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def score(matches: int, annotators: int) -> float:
    """The accuracy of an answer that ``matches`` of the annotators gave, in [0, 1].

    The mean over the sets that leave one annotator out of min(matches in the set / 3, 1). For ten
    annotators that is 0, 0.3, 0.6, 0.9 and then 1. A single annotator is right.
    """
    if annotators == 1:
        return float(matches)
    own = matches * min((matches - 1) / 3, 1)
    others = (annotators - matches) * min(matches / 3, 1)
    return (own + others) / annotators


def accuracy(answer: str, annotators: Sequence[str]) -> float:
    """The accuracy of an answer by those of the annotators, in [0, 1].

    As in the program, answers are normalised only where the annotators differ.
    """
    given = [stripped(each) for each in annotators]
    answer = stripped(answer)
    if len(set(given)) > 1:
        given = [normalised(each) for each in given]
        answer = normalised(answer)
    return score(given.count(answer), len(given))


def soft_targets(annotators: Sequence[str], vocabulary: Mapping[str, int]) -> dict[int, float]:
    """What a model should say: the score of each answer of the annotators that it knows.

    Args:
        annotators: their answers.
        vocabulary: the number of each normalised answer.

    Returns:
        Scores in (0, 1] by number; empty where no answer is known.
    """
    counts = Counter(map(normalised, annotators))
    return {
        vocabulary[answer]: score(count, len(annotators))
        for answer, count in counts.items()
        if answer in vocabulary
    }


def majority(annotators: Sequence[str]) -> str:
    """The normalised answer that most annotators gave, of several the first."""
    counts = Counter(map(normalised, annotators))
    return max(counts, key=lambda answer: counts[answer])


def vocabulary_of(majorities: Iterable[str], least: int) -> tuple[str, ...]:
    """The normalised answers that are the majority's at least so often, the most frequent first."""
    counts = Counter(each for each in majorities if each)
    kept = [answer for answer, count in counts.items() if count >= least]
    return tuple(sorted(kept, key=lambda answer: (-counts[answer], answer)))
