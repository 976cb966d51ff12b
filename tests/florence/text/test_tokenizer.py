from __future__ import annotations

import random
import unicodedata

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from florence.text.tokenizer import CONTEXT, END, START, VOCABULARY, encode, tokenize

PIECES = (
    "a photo of", "&amp;", "&lt;br&gt;", "&amp;amp;", "é", "e\u0301", "ß", "İ", "ΣΑΣ", "日本語",
    "🙂", "👨‍👩‍👧", "\n", "\t", "\u00a0", "\u200b", "’", "“", "\x00", "\x1b[31m", "'s", "'LL",
    "12345",
    "½", "²", "٣", "€", "ﬁ", "Ã©", "â€™", "\u2028", "_", "...", "!!!", "don't", "'S", "\ufeff",
)  # fmt: skip


def corpus(count: int) -> list[str]:
    """Random mixtures of difficult pieces and of characters that Unicode has long assigned."""
    rng = random.Random(0)
    assigned = [
        chr(c)
        for c in range(0x20, 0x2FFF)
        # Left out: what the two libraries' Unicode versions see differently. U+0345 and ſ change
        # category under case folding, and letters assigned lately are letters to only one of them.
        if unicodedata.category(chr(c))[0] in "LNP"
        and chr(c) not in "\u0345ſ"
        and unicodedata.ucd_3_2_0.category(chr(c)) != "Cn"
    ]
    texts = []
    for _ in range(count):
        parts = [
            rng.choice(PIECES) if rng.random() < 0.7 else rng.choice(assigned)
            for _ in range(rng.randint(0, 8))
        ]
        texts.append(rng.choice(["", " "]).join(parts))
    return texts


def test_ids_equal_open_clips_on_a_fuzz_corpus() -> None:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except Exception as error:  # it needs torchvision, which needs a matching torch
        pytest.skip(f"open_clip does not import here: {error}")
    reference = SimpleTokenizer()
    texts = [*corpus(3000), "seven " * 100, "supercalifragilistic" * 20, "x" * 1000, ""]
    for start in range(0, len(texts), 500):
        part = texts[start : start + 500]
        ours, theirs = tokenize(part), reference(part)
        different = [t for t, a, b in zip(part, ours, theirs, strict=True) if not torch.equal(a, b)]
        assert different == []


@given(st.lists(st.text(max_size=200), max_size=4), st.integers(2, CONTEXT))
def test_every_row_has_one_start_one_end_and_pools_there(texts: list[str], context: int) -> None:
    ids = tokenize(texts, context)
    assert ids.shape == (len(texts), context)
    assert ids.dtype == torch.int64
    for row, text in zip(ids, texts, strict=True):
        length = min(len(encode(text)) + 2, context)
        assert row[0] == START
        assert (row == END).sum() == 1
        assert row.argmax() == length - 1
        assert (row[length:] == 0).all()
        assert row[1 : length - 1].tolist() == encode(text)[: length - 2]
        assert row.max() < VOCABULARY


def test_an_end_token_spelt_in_a_caption_does_not_end_it() -> None:
    ids = tokenize(["a <end_of_text> b <start_of_text> c"])[0]
    assert (ids == END).sum() == 1
    assert (ids == START).sum() == 1
    assert ids[ids.argmax() + 1 :].eq(0).all()


def test_a_context_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="context=1"):
        tokenize(["a"], 1)
