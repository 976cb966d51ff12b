"""When two texts are one description: the key of the paper's text hash table (science.md, 1).

A record (image, text) becomes a triplet (x, t, y): ``t`` is the description and ``y`` its key. Two
records share ``y`` exactly when their canonical texts are equal, in whatever shard, worker or run
they are met, because the key is a hash of the text and of nothing else.
"""

from __future__ import annotations

import hashlib
import html
import re
import unicodedata

from florence.config import TextIdentity

_WHITE_SPACE = re.compile(r"\s+")


def canonical(text: str) -> str:
    """The text as CLIP's tokenizer sees it, so that equal canonical texts have equal tokens.

    Mojibake repaired, entities unescaped twice (web pages escape them twice), NFC, runs of white
    space collapsed, ends stripped, lower case. Punctuation stays. May return the empty string.
    """
    # Printable ASCII without entities is what the repairs would return, at 20 times the cost.
    if not (text.isascii() and text.isprintable()) or "&" in text:
        import ftfy  # takes longer than a prediction: only for texts that need it

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
        text = unicodedata.normalize("NFC", text)
    return _WHITE_SPACE.sub(" ", text).strip().lower()


def identity(text: str, mode: TextIdentity) -> str:
    """What is hashed: the canonical text, or in ``exact`` mode only NFC and stripped ends."""
    if mode is TextIdentity.CANONICAL:
        return canonical(text)
    return unicodedata.normalize("NFC", text).strip()


def text_label(text: str, mode: TextIdentity = TextIdentity.CANONICAL) -> int:
    """The key y of a description: 64-bit BLAKE2b of its identity, as a signed 64-bit integer.

    With 5.5e8 unique texts the chance of a single collision is 0.8 % (birthday bound n²/2⁶⁵).
    """
    return hash_key(identity(text, mode))


def hash_key(text: str) -> int:
    """64-bit BLAKE2b of a string as it stands, as a signed 64-bit integer."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def word_count(text: str) -> int:
    """Words between white space in the canonical text; 0 means that there is no text."""
    return len(canonical(text).split())


def is_short(words: int, short_words: int) -> bool:
    """Whether a text of so many words counts as short and gets a template (paper: one or two)."""
    return 0 < words <= short_words
