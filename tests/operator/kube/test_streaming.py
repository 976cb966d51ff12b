"""A list that comes in pieces is the list that was sent, wherever it is cut."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_operator.kube import streaming
from florence_operator.kube.errors import ApiError
from florence_operator.kube.streaming import ListStream


def read(sent: bytes, size: int, batch: int) -> tuple[list[Any], dict[str, Any], list[int]]:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(sent), size):
            yield sent[start : start + size]

    async def main() -> tuple[list[Any], dict[str, Any], list[int]]:
        stream = ListStream("GET /x")
        parts = [part async for part in stream.batches(chunks())]
        return [i for part in parts for i in part], stream.metadata, [len(p) for p in parts]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "_BATCH", batch)
        return asyncio.run(main())


TEXT = st.text(max_size=8) | st.sampled_from(['},{"a":', '"items":[', "ä\\", "]}", "💥"])
VALUES = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS = st.lists(st.fixed_dictionaries({"a": VALUES, "owners": st.lists(st.just({"a": 1}))}))


@settings(deadline=None)
@given(ITEMS, st.booleans(), st.booleans(), st.integers(1, 400), st.integers(1, 300))
def test_it_is_the_list_that_was_sent(
    items: list[Any], first: bool, plain: bool, size: int, batch: int
) -> None:
    metadata = {"metadata": {"resourceVersion": "7"}}
    document = {**metadata, "items": items} if first else {"items": items, **metadata}
    sent = json.dumps(document, separators=(",", ":"), ensure_ascii=plain).encode()
    found, about, _ = read(sent, size, batch)
    assert found == items
    assert about == {"resourceVersion": "7"}


def test_it_comes_in_parts() -> None:
    items = [{"a": n, "owners": [{"a": 1}, {"a": 2}]} for n in range(1000)]
    sent = json.dumps({"items": items, "metadata": {}}, separators=(",", ":")).encode()
    found, _, sizes = read(sent, 1000, 4000)
    assert found == items
    assert max(sizes) < 200


@pytest.mark.parametrize("sent", [b"{", b'{"items":[{"a":1},', b'{"items":[{"a":1}]', b"<html>"])
def test_an_answer_that_ends_too_soon_is_an_error(sent: bytes) -> None:
    with pytest.raises(ApiError, match="GET /x: the answer is not JSON"):
        read(sent, 5, 8)


def test_a_list_that_is_written_with_blanks_is_read_as_well() -> None:
    items = [{"a": 1}, {"a": 2}]
    sent = json.dumps({"metadata": {"resourceVersion": "3"}, "items": items}, indent=1).encode()
    assert read(sent, 7, 9)[:2] == (items, {"resourceVersion": "3"})


def test_a_list_without_items_has_none() -> None:
    assert read(b'{"metadata":{"resourceVersion":"3"}}', 9, 9)[:2] == ([], {"resourceVersion": "3"})
    assert read(b'{"items":null,"metadata":{}}', 9, 9)[:2] == ([], {})
