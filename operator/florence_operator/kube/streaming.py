"""Read a list of objects while it comes: it is never held as a whole, and nobody waits for it."""

from __future__ import annotations

import codecs
import json
from collections.abc import AsyncIterator
from typing import Any

from florence_operator.kube.errors import ApiError

_BATCH = 2**20
"""Characters that are decoded at once: names of fields are shared within a batch."""
_ITEMS = '"items":['
_MOST_TRIES = 64

Document = dict[str, Any]


class ListStream:
    """The items of a list's JSON, batch by batch; then what stands around them.

    Servers put the list's metadata before the items, or after them.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._head = self._rest = ""
        self._separator = ""

    @property
    def metadata(self) -> Document:
        """The list's own metadata, once all items have been read."""
        return self._parsed(f"{self._head}{_ITEMS}{self._rest}").get("metadata") or {}

    async def batches(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[list[Document]]:
        """The items, in the order of the list."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = ""
        async for chunk in chunks:
            text += decoder.decode(chunk)
            if not self._head:
                text = self._begin(text)
            if self._head and len(text) >= _BATCH:
                found, text = self._whole(text)
                if found:
                    yield found
        if self._head:
            found, self._rest = self._last(text)
            if found:
                yield found
        else:
            # Written with blanks, or without items: not as API servers do.
            whole = self._parsed(text)
            around = {"metadata": whole.get("metadata")}
            self._head, self._rest = "{", f"],{json.dumps(around)[1:]}"
            yield whole.get("items") or []

    def _begin(self, text: str) -> str:
        """What follows the head, once the items begin; else all of it."""
        head, mark, rest = text.partition(_ITEMS)
        if mark:
            self._head = head
            return rest
        return text

    def _whole(self, text: str) -> tuple[list[Document], str]:
        """The items that have come as a whole, and what is left."""
        if not self._separator:
            # All items begin with the same field; so may objects within them.
            self._separator = "}," + text.lstrip()[: text.lstrip().find(":") + 1]
        end = len(text)
        for _ in range(_MOST_TRIES):
            end = text.rfind(self._separator, 0, end)
            if end < 0:
                break
            try:
                return json.loads(f"[{text[: end + 1]}]"), text[end + 2 :]
            except ValueError:
                continue
        return [], text

    def _last(self, text: str) -> tuple[list[Document], str]:
        """The last items, and what follows the list of them."""
        try:
            found, end = json.JSONDecoder().raw_decode(f"[{text}")
        except ValueError as error:
            raise self._broken(error) from None
        return found, text[end - 2 :]

    def _parsed(self, text: str) -> Document:
        try:
            found = json.loads(text)
        except ValueError as error:
            raise self._broken(error) from None
        return found if isinstance(found, dict) else {}

    def _broken(self, error: ValueError) -> ApiError:
        return ApiError(0, "NotJSON", f"{self._where}: the answer is not JSON: {error}")
