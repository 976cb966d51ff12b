"""CLIP's byte-pair encoding: 49,408 entries, the last two of which are start and end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from instant_clip_tokenizer import Tokenizer

from florence.text.normalisation import canonical

if TYPE_CHECKING:
    import torch

VOCABULARY = 49_408
START = 49_406
END = 49_407
PAD = 0
CONTEXT = 77


@cache
def _encoder() -> Tokenizer:
    return Tokenizer()


def encode(text: str) -> list[int]:
    """The byte-pair ids of a text after cleaning, uncut and without start and end.

    A caption that spells ``<end_of_text>`` must not end itself, so the two
    special entries never come from text.
    """
    return [token for token in _encoder().encode(canonical(text)) if token < START]


def tokenize_lists(texts: Sequence[str], context: int = CONTEXT) -> list[list[int]]:
    """Like :func:`tokenize`, without padding: one list of 2 to ``context`` ids per text."""
    if context < 2:
        raise ValueError(f"context={context} leaves no room for the start and the end token")
    return [[START, *encode(text)[: context - 2], END] for text in texts]


def tokenize(texts: Sequence[str], context: int = CONTEXT) -> torch.Tensor:
    """Token ids, int64 ``(len(texts), context)``: start, text, end, then zeros.

    A longer text is cut so that its end token stays; every row holds exactly one of them, and it is
    the row's largest id, where the text tower pools.
    """
    import torch

    ids = torch.full((len(texts), context), PAD, dtype=torch.int64)
    for row, tokens in zip(ids, tokenize_lists(texts, context), strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    return ids


def decode(ids: Sequence[int]) -> str:
    """The text of byte-pair ids without start and end: lower case, words and marks apart."""
    text: str = _encoder().decode(list(ids))
    return text
