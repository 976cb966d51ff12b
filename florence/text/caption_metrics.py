"""How near captions are to those that people wrote: BLEU, ROUGE-L and CIDEr-D.

The formulas are those of the COCO caption evaluation (arXiv 1504.00325), with its constants, so
that figures compare with published ones. Its tokenizer, a Java program, is replaced by
:func:`words_of`, which splits contractions and drops marks as it does. METEOR and SPICE are Java
programs themselves, and not here.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

LONGEST = 4
"""Words of the longest sequences that are counted."""
_SIGMA = 6.0
_BETA = 1.2
_TINY, _SMALL = 1e-15, 1e-9
_SPLIT = re.compile(r"(n't|'s|'re|'ve|'ll|'d|'m)(?![a-z])")
_WORD = re.compile(r"n't|'(?:s|re|ve|ll|d|m)(?![a-z])|[^\W_]+(?:[.,:/'’&-][^\W_]+)*|[^\s\w]|_")
_DROPPED = frozenset("'`.?!,:;-\"()[]{}") | {"--", "...", "''", "``"}

Words = tuple[str, ...]
Grams = Counter[Words]


def words_of(caption: str) -> Words:
    """The words of a caption as metrics count them: lower case, without punctuation marks."""
    text = _SPLIT.sub(r" \1", caption.lower().replace("’", "'"))
    return tuple(word for word in _WORD.findall(text) if word not in _DROPPED)


def caption_metrics(
    captions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """CIDEr-D, BLEU-1 to 4 and ROUGE-L of one caption of each image.

    Args:
        captions: one an image.
        references: of each image at least one.

    Returns:
        ``cider`` in [0, 10], the others in [0, 1].
    """
    said = [words_of(caption) for caption in captions]
    known = [[words_of(reference) for reference in group] for group in references]
    scores = cider_d(said, known)
    bleus = bleu(said, known)
    return {
        "cider": sum(scores) / len(scores),
        **{f"bleu{n}": value for n, value in enumerate(bleus, 1)},
        "rougeL": sum(map(rouge_l, said, known)) / len(said),
    }


def grams_of(words: Words, size: int) -> Grams:
    """The sequences of so many words, counted."""
    return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))


def bleu(said: Sequence[Words], known: Sequence[Sequence[Words]]) -> list[float]:
    """BLEU-1 to 4 of a corpus, each reference as long as is nearest to the caption."""
    right, given = [0] * LONGEST, [0] * LONGEST
    length = reference_length = 0
    for words, references in zip(said, known, strict=True):
        length += len(words)
        nearest = min((abs(len(each) - len(words)), len(each)) for each in references)
        reference_length += nearest[1]
        for n in range(LONGEST):
            most: Grams = Counter()
            for reference in references:
                most |= grams_of(reference, n + 1)
            found = grams_of(words, n + 1)
            given[n] += max(0, len(words) - n)
            right[n] += sum((found & most).values())
    ratio = (length + _TINY) / (reference_length + _SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n in range(LONGEST):
        product *= (right[n] + _TINY) / (given[n] + _SMALL)
        scores.append(brevity * product ** (1 / (n + 1)))
    return scores


def rouge_l(words: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of a caption: the F measure of the longest common subsequence."""
    common = [_longest_common(words, reference) for reference in references]
    precision = max(c / len(words) for c in common) if words else 0.0
    recalls = (c / len(r) if r else 0.0 for c, r in zip(common, references, strict=True))
    recall = max(recalls)
    if not precision or not recall:
        return 0.0
    square = _BETA**2
    return (1 + square) * precision * recall / (recall + square * precision)


def cider_d(said: Sequence[Words], known: Sequence[Sequence[Words]]) -> list[float]:
    """CIDEr-D of each caption; sequences weigh the less, the more images' references have them."""
    weights = CiderWeights(known)
    return [weights.score(words, refs) for words, refs in zip(said, known, strict=True)]


class CiderWeights:
    """How rare sequences of words are in the references of a set of images.

    Args:
        known: the references of each image, gone through once.
    """

    def __init__(self, known: Iterable[Sequence[Words]]) -> None:
        self._images: Grams = Counter()
        count = 0
        for references in known:
            count += 1
            every = {
                gram
                for words in references
                for size in range(1, LONGEST + 1)
                for gram in grams_of(words, size)
            }
            self._images.update(every)
        self._log_count = math.log(max(1, count))

    def score(self, words: Words, references: Sequence[Words]) -> float:
        """CIDEr-D of a caption, in [0, 10]."""
        own = self._vectors(words)
        total = 0.0
        for reference in references:
            other = self._vectors(reference)
            # The lengths are counted in pairs of words, as the reference program does.
            apart = max(0, len(words) - 1) - max(0, len(reference) - 1)
            penalty = math.exp(-(apart**2) / (2 * _SIGMA**2))
            cosines = (_clipped(a, b) for a, b in zip(own, other, strict=True))
            total += penalty * sum(cosines) / LONGEST
        return 10.0 * total / len(references)

    def _vectors(self, words: Words) -> list[dict[Words, float]]:
        return [
            {
                gram: count * (self._log_count - math.log(max(1.0, self._images[gram])))
                for gram, count in grams_of(words, size).items()
            }
            for size in range(1, LONGEST + 1)
        ]


def _clipped(own: Mapping[Words, float], other: Mapping[Words, float]) -> float:
    """The cosine of two vectors of which the first counts no gram more often than the second."""
    norms = math.sqrt(sum(v * v for v in own.values()) * sum(v * v for v in other.values()))
    if not norms:
        return 0.0
    product = sum(min(v, other.get(gram, 0.0)) * other.get(gram, 0.0) for gram, v in own.items())
    return product / norms


def _longest_common(one: Words, two: Words) -> int:
    row = [0] * (len(two) + 1)
    for word in one:
        before = 0
        for i, other in enumerate(two):
            longer = before + 1 if word == other else max(row[i + 1], row[i])
            before, row[i + 1] = row[i + 1], longer
    return row[-1]
