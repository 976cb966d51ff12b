from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config import TextIdentity
from florence.text.normalisation import canonical, is_short, text_label, word_count
from florence.text.tokenizer import encode


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("  A   Dog \n runs ", "a dog runs"),
        ("Tom &amp;amp; Jerry", "tom & jerry"),
        ("caf\u0065\u0301", "caf\u00e9"),
        ("Ã©tÃ©", "été"),
        ("it’s", "it's"),
        ("STRASSE, 5!", "strasse, 5!"),
        (" \t\u00a0 ", ""),
        ("", ""),
    ],
)
def test_canonical(raw: str, clean: str) -> None:
    assert canonical(raw) == clean


@given(st.text(), st.sampled_from([str.upper, str.title, lambda s: f"\t{s}\n"]))
def test_printable_ascii_takes_the_same_way_as_everything_else(text, change) -> None:
    plain = "".join(c for c in text if c.isascii() and c.isprintable())
    # A character that needs the repairs, and leaves nothing behind, forces the slow path.
    assert canonical(change(plain)) == canonical(change(plain) + " \u00a0")


@given(st.text(), st.text())
def test_equal_canonical_texts_have_equal_labels_and_tokens(a: str, b: str) -> None:
    variant = f" {a.upper()} "
    for other in (b, variant):
        same = canonical(a) == canonical(other)
        assert (text_label(a) == text_label(other)) == same
        if same:
            assert encode(a) == encode(other)


def test_modes_differ_in_case_and_white_space_only_in_canonical() -> None:
    exact = TextIdentity.EXACT
    assert text_label("A  dog") == text_label("a dog")
    assert text_label("A dog", exact) != text_label("a dog", exact)
    assert text_label("a  dog", exact) != text_label("a dog", exact)
    assert text_label(" e\u0301 ", exact) == text_label("\u00e9", exact)
    assert text_label("a dog.") != text_label("a dog")  # punctuation is kept


def test_label_is_signed_blake2b_and_the_same_in_another_process() -> None:
    digest = hashlib.blake2b(b"a dog", digest_size=8).digest()
    assert text_label("A dog") == int.from_bytes(digest, "little", signed=True)
    code = "from florence.text.normalisation import text_label; print(text_label('A dog'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == text_label("A dog")


@given(st.text())
def test_label_fits_in_64_signed_bits(text: str) -> None:
    assert -(2**63) <= text_label(text) < 2**63


def test_long_texts_that_differ_behind_the_context_keep_different_labels() -> None:
    long = "word " * 100
    assert text_label(long + "cat") != text_label(long + "dog")


def test_short_rule() -> None:
    assert word_count(" seven ") == 1
    assert word_count("New&nbsp;York") == 2
    assert [is_short(n, 2) for n in range(4)] == [False, True, True, False]
    assert not is_short(1, 0)


@given(st.text())
def test_word_count_is_zero_exactly_for_empty_texts(text: str) -> None:
    assert (word_count(text) == 0) == (canonical(text) == "")
