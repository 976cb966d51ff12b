"""Masked language modelling: which tokens of a text are hidden, and what stands there instead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from florence.text.coding import TextCoder

MASKED, RANDOM = 0.8, 0.9
"""Of hidden tokens 80 % become the mask, 10 % a random token, and the rest stays (BERT)."""
IGNORED = -100
"""The target of tokens that are not hidden."""


@dataclass(frozen=True)
class MaskedText:
    """A coded text, the same with hidden tokens, and those tokens.

    Attributes:
        ids: with start and end.
        masked: as many.
        targets: the token where it is hidden, else ``IGNORED``.
    """

    ids: list[int]
    masked: list[int]
    targets: list[int]


def masked_text(
    coder: TextCoder,
    text: str,
    length: int,
    *,
    fraction: float,
    whole_words: bool,
    draw: Iterator[float],
) -> MaskedText:
    """Hide tokens of a text; a pure function of its arguments.

    Args:
        coder: how the text becomes tokens.
        text: the text.
        length: most tokens, start and end included.
        fraction: probability that a token, or a whole word, is hidden.
        whole_words: hide all tokens of a word, or none.
        draw: numbers in [0, 1).
    """
    words = coder.words(text)
    flat = [token for word in words for token in word][: length - 2]
    hidden: list[bool] = []
    for word in words:
        if whole_words:
            hidden += [next(draw) < fraction] * len(word)
        else:
            hidden += [next(draw) < fraction for _ in word]
    masked, targets = [], []
    for token, is_hidden in zip(flat, hidden, strict=False):
        targets.append(token if is_hidden else IGNORED)
        masked.append(_instead(coder, token, draw) if is_hidden else token)
    return MaskedText(
        [coder.start, *flat, coder.end],
        [coder.start, *masked, coder.end],
        [IGNORED, *targets, IGNORED],
    )


def _instead(coder: TextCoder, token: int, draw: Iterator[float]) -> int:
    chance = next(draw)
    if chance < MASKED:
        return coder.mask
    if chance >= RANDOM:
        return token
    while coder.is_special(other := int(next(draw) * coder.vocabulary)):
        pass
    return other
