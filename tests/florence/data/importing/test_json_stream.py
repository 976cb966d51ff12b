from __future__ import annotations

import json
import math
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.data.importing import json_stream
from florence.data.importing.json_stream import outline, read_items, without_nan
from florence.errors import DataError
from florence.storage import Entry, Storage, open_storage

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text('aNInfinity\\"-,é', max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('N"\\a'), inner, max_size=3)
    ),
    max_leaves=20,
)


def nulled(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list):
        return [nulled(item) for item in value]
    if isinstance(value, dict):
        return {key: nulled(item) for key, item in value.items()}
    return value


@given(values, st.integers(1, 9))
def test_nan_becomes_null_wherever_the_chunks_are_cut(value: Any, size: int) -> None:
    data = json.dumps([value], ensure_ascii=False).encode()
    chunks = iter([data[start : start + size] for start in range(0, len(data), size)])
    assert json.loads(b"".join(without_nan(chunks))) == nulled([value])


def stored(path: Path, data: bytes) -> tuple[Storage, Entry]:
    path.write_bytes(data)
    storage = open_storage(str(path.parent))
    return storage, next(e for e in storage.list(path.name) if e.key == path.name)


def test_items_come_in_order_and_nothing_else_is_held(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 4096)
    rows = [{"id": i, "text": "x" * 100, "at": i / 2} for i in range(40_000)]
    file = stored(tmp_path / "big.json", json.dumps({"images": rows, "info": {}}).encode())
    assert file[1].size > 4 << 20
    found: list[int] = []
    tracemalloc.start()
    read_items(*file, {"images.item": lambda item: found.append(item["id"])})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == list(range(40_000))
    assert peak < file[1].size / 2


def test_the_outline_has_the_first_of_each_list(tmp_path: Path) -> None:
    document = {
        "info": {"images": [3]},
        "categories": [{"id": 1}],
        "images": [{"id": 2}, {"id": 3}],
    }
    found = outline(*stored(tmp_path / "a.json", json.dumps(document).encode()))
    assert found == {"categories": [{"id": 1}], "images": [{"id": 2}]}
    assert outline(*stored(tmp_path / "b.json", b'[{"objects": []}, 1]')) == {"": [{"objects": []}]}


def test_the_outline_stops_where_it_knows_enough(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(json_stream, "CHUNK", 512)
    head = b'{"images": [{"id": 1}], "annotations": [{"id": 2}, '
    found = outline(*stored(tmp_path / "a.json", head + b" " * 4096 + b"and no JSON"))
    assert found["annotations"] == [{"id": 2}]


@pytest.mark.parametrize("data", [b"", b"{", b'{"images": [1, ', b"no", b'{"images": [1 2]}'])
def test_what_is_not_json_is_one_line_with_the_file(tmp_path: Path, data: bytes) -> None:
    file = stored(tmp_path / "a.json", data)
    with pytest.raises(
        DataError, match=f"{re.escape(str(tmp_path))}/a.json is not JSON"
    ) as failure:
        read_items(*file, {"images.item": lambda item: None})
    assert "\n" not in str(failure.value)


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    found: list[Any] = []
    file = stored(tmp_path / "a.json", b'\xef\xbb\xbf{"images": [1.5, NaN]}')
    read_items(*file, {"images.item": found.append})
    assert found == [1.5, None]
