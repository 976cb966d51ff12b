"""The card of a model: what it refuses and what it decides."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.config import architecture_of
from florence.errors import DataError
from florence.models.card import ModelCard, card_bytes, inherited_window, parse_card

NANO = architecture_of("coswin-nano")
HEADS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def card(**changes: Any) -> ModelCard:
    values = {
        "task": "classification",
        "architecture": NANO,
        "window": 4,
        "resolution": 64,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return ModelCard(**values | changes)


@given(
    st.dictionaries(st.text(), HEADS) | st.none(),
    st.lists(st.text()),
    st.lists(st.tuples(st.text(), st.text())),
)
def test_comes_back_as_it_was(
    head: dict[str, Any] | None, labels: list[str], templates: list[tuple[str, str]]
) -> None:
    written = card(head=head, labels=labels, templates=["{}".join(pair) for pair in templates])
    read, version = parse_card(card_bytes(written), "config.json")
    assert read == written
    assert version == 2


def test_a_sentence_without_a_gap_is_refused() -> None:
    content = json.loads(card_bytes(card()))
    content["templates"] = ["a photo of a {}.", "a photo"]
    with pytest.raises(DataError, match=r"m/config.json.*templates.*'a photo' has no \{\}"):
        parse_card(json.dumps(content).encode(), "m/config.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b'{"schemaVersion": 2', b"\xff"])
def test_what_is_no_card_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^m/config.json: not a model's configuration") as caught:
        parse_card(content, "m/config.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "stored", "expected"),
    [(None, None, 4), (None, 8, 8), (6, 8, 6), (6, None, 6), (4, 8, 4)],
)
def test_windows_are_inherited_where_the_stage_says_nothing(
    setting: int | None, stored: int | None, expected: int
) -> None:
    source = None if stored is None else card(window=stored)
    assert NANO.image.window == 4
    assert inherited_window(setting, source, NANO) == expected


def test_a_card_is_read_without_torch() -> None:
    program = "import sys, florence.models.card; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
