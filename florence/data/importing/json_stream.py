"""JSON files of gigabytes, read piece by piece: no file is held, and no list of it either."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import ijson

from florence.data.archive import StoredFile
from florence.errors import DataError
from florence.storage import Entry, Storage

CHUNK = 1 << 20
LISTS = ("images", "annotations", "categories", "questions")
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[^"]+', re.DOTALL)
_NOT_NUMBERS = re.compile(rb"-?(?:NaN|Infinity)")


def read_items(
    storage: Storage, entry: Entry, on_item: Mapping[str, Callable[[Any], None]]
) -> None:
    """Call a function with every value under a prefix (``images.item``), in the file's order.

    Numbers with a point are floats. NaN and Infinity, which Python writes and JSON does not know,
    are read as null.

    Raises:
        DataError: the file is not JSON; names it.
    """
    _feed(storage, entry, on_item, until=lambda: False)


def outline(storage: Storage, entry: Entry) -> dict[str, Any]:
    """The first object of each of :data:`LISTS` that a file has; of a file that is a list, ``""``.

    Reads no further than it must, so that a format is known without reading gigabytes.

    Raises:
        DataError: the file is not JSON.
    """
    first: dict[str, list[Any]] = {}

    def keep(name: str, item: Any) -> None:
        first.setdefault(name, [item])

    prefixes = {f"{name}.item": partial(keep, name) for name in LISTS}
    prefixes["item"] = partial(keep, "")
    decided = ({"images", "annotations"}, {"questions"}, {""})
    _feed(storage, entry, prefixes, until=lambda: any(d <= first.keys() for d in decided))
    return dict(first)


def _feed(
    storage: Storage,
    entry: Entry,
    on_item: Mapping[str, Callable[[Any], None]],
    *,
    until: Callable[[], bool],
) -> None:
    """Parse a file once for all prefixes, until ``until``.

    It is filtered for NaN from the start: a file that fails half-way has handed out its first half.
    """
    found: list[tuple[Callable[[Any], None], Any, Any]] = []
    for prefix, function in on_item.items():
        items = ijson.sendable_list()
        found.append((function, items, ijson.items_coro(items, prefix, use_float=True)))
    try:
        for chunk in without_nan(_chunks(storage, entry)):
            for function, items, parser in found:
                parser.send(chunk)
                for item in items:
                    function(item)
                del items[:]
            if until():
                return
        for function, items, parser in found:
            parser.close()
            for item in items:
                function(item)
    except (ijson.JSONError, ijson.IncompleteJSONError, StopIteration) as error:
        reason = (str(error) or "it ends early").splitlines()[0]
        raise DataError(
            f"{storage.url(entry.key)} is not JSON: {reason}: fetch it again"
        ) from error


def _chunks(storage: Storage, entry: Entry) -> Iterator[bytes]:
    with io.BufferedReader(StoredFile(storage, entry.key, entry.size), CHUNK) as file:
        first = file.read(CHUNK)
        yield first.removeprefix(b"\xef\xbb\xbf")
        while chunk := file.read(CHUNK):
            yield chunk


def without_nan(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same JSON with null for NaN and Infinity; what stands in texts is left alone."""
    inside, held = False, b""
    for chunk in chunks:
        data, held = held + chunk, b""
        if b"NaN" not in data and b"Infinity" not in data:
            # The usual case costs two searches; only where the chunk ends must be known.
            inside ^= _has_odd_quotes(data)
            cut = len(data) - (_odd_escapes(data) if inside else _begun(data))
            held = data[cut:]
            yield data[:cut]
            continue
        made, inside, held = _mended(data, inside)
        yield made
    if held:
        yield _NOT_NUMBERS.sub(b"null", held) if not inside else held


def _has_odd_quotes(data: bytes) -> bool:
    """Whether a text begins and does not end in the data, or ends and does not begin."""
    if b"\\" not in data:
        return data.count(b'"') % 2 == 1
    plain = re.sub(rb"\\.", b"", data, flags=re.DOTALL)
    return plain.count(b'"') % 2 == 1


def _begun(data: bytes) -> int:
    """How many bytes at the end may be the beginning of NaN or Infinity."""
    words = (b"-Infinity", b"Infinity", b"-NaN", b"NaN")
    return max(
        (n for word in words for n in range(1, len(word)) if data.endswith(word[:n])), default=0
    )


def _mended(data: bytes, inside: bool) -> tuple[bytes, bool, bytes]:
    """What is certain of the data, whether it ends inside a text, and the rest."""
    out = []
    position = 0
    if inside:
        end = re.match(rb'(?:[^"\\]|\\.)*"', data, re.DOTALL)
        if end is None:
            cut = len(data) - _odd_escapes(data)
            return data[:cut], True, data[cut:]
        out.append(end.group())
        position = end.end()
    for token in _TOKENS.finditer(data, position):
        if token.start() != position:  # a quote that nothing closes
            break
        text = token.group()
        if not text.startswith(b'"'):
            held = _begun(text) if token.end() == len(data) else 0
            out.append(_NOT_NUMBERS.sub(b"null", text[: len(text) - held]))
            if held:
                return b"".join(out), False, text[len(text) - held :]
        else:
            out.append(text)
        position = token.end()
    rest = data[position:]
    if not rest:
        return b"".join(out), False, b""
    cut = len(rest) - _odd_escapes(rest)
    out.append(rest[:cut])
    return b"".join(out), True, rest[cut:]


def _odd_escapes(data: bytes) -> int:
    """1 when the last backslash still waits for what it escapes, else 0."""
    return (len(data) - len(data.rstrip(b"\\"))) % 2
