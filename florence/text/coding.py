"""Texts as token ids and back, whichever text encoder reads them: CLIP's coding or RoBERTa's."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

from florence.config.storage import S3Settings
from florence.errors import DataError
from florence.storage import MissingKeyError, Storage, open_storage
from florence.text import tokenizer as clip
from florence.text.normalisation import canonical

CLIP = "clip-bpe-49408"
ROBERTA = "roberta"
_TOKENIZER, _VOCABULARY, _MERGES = "tokenizer.json", "vocab.json", "merges.txt"


class TextCoder(Protocol):
    """A coding of texts.

    Attributes:
        name: as a model's card names it.
        start, end: what a coded text begins and ends with.
        padding: what stands behind it.
        mask: what stands for a hidden token.
        vocabulary: ids are below this.
    """

    name: str
    start: int
    end: int
    padding: int
    mask: int
    vocabulary: int

    def words(self, text: str) -> list[list[int]]:
        """The ids of each word, without start and end; special ids never come from text."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special ones are left out."""

    def is_special(self, token: int) -> bool:
        """Whether an id stands for no text."""


def coded(coder: TextCoder, text: str, length: int) -> list[int]:
    """A text's ids with start and end, at most ``length`` of them; a longer text is cut.

    Raises:
        ValueError: ``length`` leaves no room for start and end.
    """
    if length < 2:
        raise ValueError(f"length={length} leaves no room for the start and the end token")
    ids = [token for word in coder.words(text) for token in word]
    return [coder.start, *ids[: length - 2], coder.end]


class ClipCoder:
    """CLIP's byte-pair coding, which the Florence text tower reads.

    It has no mask of its own: the start token, which stands nowhere else than first, is one.
    """

    name = CLIP
    start = clip.START
    end = clip.END
    padding = clip.PAD
    mask = clip.START
    vocabulary = clip.VOCABULARY

    def words(self, text: str) -> list[list[int]]:
        """See :class:`TextCoder`; words are what stands between white space."""
        return [clip.encode(word) for word in canonical(text).split()]

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`TextCoder`; in lower case, with a space on either side of punctuation."""
        text: str = clip.decode([token for token in ids if not self.is_special(token)])
        return text.strip()

    def is_special(self, token: int) -> bool:
        """See :class:`TextCoder`."""
        return token >= clip.START


class RobertaCoder:
    """RoBERTa's byte-level coding by the ``tokenizers`` library, from its published files.

    Args:
        document: the content of a ``tokenizer.json``.
        where: what messages call it.

    Raises:
        DataError: it is none, or lacks a special token; names ``where``.
    """

    name = ROBERTA

    def __init__(self, document: str, where: str) -> None:
        self.document = document
        try:
            ids = {token: self._tokenizer.token_to_id(token) for token in _SPECIAL}
        except Exception as error:  # the library raises plain Exception
            raise DataError(f"{where}: not a tokenizer: {error}: copy it again") from None
        missing = [token for token, found in ids.items() if found is None]
        if missing:
            raise DataError(f"{where}: has no '{missing[0]}': give the tokenizer of a RoBERTa")
        self.start, self.end, self.padding, self.mask, _ = (ids[token] for token in _SPECIAL)
        self._special = set(ids.values())
        self.vocabulary = self._tokenizer.get_vocab_size()

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(self.document)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_tokenizer"}

    def words(self, text: str) -> list[list[int]]:
        """See :class:`TextCoder`; words and punctuation marks are apart."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words: list[list[int]] = []
        before: object = object()
        for token, word in zip(encoding.ids, encoding.word_ids, strict=True):
            if token in self._special:
                continue
            if word != before:
                words.append([])
            before = word
            words[-1].append(token)
        return words

    def decode(self, ids: Sequence[int]) -> str:
        """See :class:`TextCoder`."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def is_special(self, token: int) -> bool:
        """See :class:`TextCoder`."""
        return token in self._special

    def packed(self) -> str:
        """The tokenizer as text that a model's card can hold."""
        return base64.b64encode(zlib.compress(self.document.encode(), 9)).decode()

    @classmethod
    def unpacked(cls, content: object, where: str) -> RobertaCoder:
        """From :meth:`packed`. Raises :class:`DataError`; names ``where``."""
        try:
            document = zlib.decompress(base64.b64decode(str(content), validate=True)).decode()
        except (ValueError, zlib.error) as error:
            raise DataError(f"{where}: its tokenizer cannot be read: {error}") from None
        return cls(document, where)


_SPECIAL = ("<s>", "</s>", "<pad>", "<mask>", "<unk>")


def read_roberta_coder(uri: str, s3: S3Settings | None = None) -> RobertaCoder:
    """The coding in a folder, here or in S3: ``tokenizer.json``, or ``vocab.json`` and merges.

    Raises:
        DataError: neither is there, or a file is broken; names it.
    """
    storage = open_storage(uri.rstrip("/") or uri, s3)
    try:
        document, where = storage.read(_TOKENIZER).decode(), storage.url(_TOKENIZER)
    except MissingKeyError:
        document, where = _from_vocabulary(storage), storage.url(_VOCABULARY)
    return RobertaCoder(document, where)


def _from_vocabulary(storage: Storage) -> str:
    """RoBERTa's ``tokenizer.json`` as made of its older files."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    try:
        vocabulary = json.loads(storage.read(_VOCABULARY))
        lines = storage.read(_MERGES).decode().splitlines()
        merges = [(a, b) for a, b in (line.split() for line in lines if line[:1] != "#" and line)]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    except MissingKeyError as error:
        raise DataError(
            f"{storage.uri} has neither {_TOKENIZER} nor {_VOCABULARY} and {_MERGES} ({error}): "
            "give the folder of a RoBERTa"
        ) from None
    except Exception as error:  # the library raises plain Exception
        raise DataError(
            f"{storage.url(_VOCABULARY)} and {_MERGES}: no byte-pair coding: {error}: copy them "
            "again"
        ) from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, lstrip=token == "<mask>") for token in _SPECIAL if token in vocabulary]
    )
    text: str = tokenizer.to_str()
    return text
