"""YAML that a person wrote: read as PyYAML reads it, or refused at once in one line."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from florence.config import yaml_document
from florence.config.yaml_document import MOST_BYTES, DocumentError, read_documents, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_written_is_read(value: object) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "base: &base {a: 1, b: 2}\nother: {<<: *base, b: 3}",
        "x: &x {<<: {a: 1}, a: 2}\ny: {<<: *x, a: 3}\nz: {<<: [*x, {c: 1}]}",
        "a: &one 1\nb: *one",
        "1: a\n'1': b",
        "",
        "\ufeffa: 1",
    ],
)
def test_anchors_and_merges_mean_what_they_mean_elsewhere(text: str) -> None:
    assert read_yaml(text.encode()) == yaml.safe_load(text)


def bomb() -> str:
    lines = ["a: &a [" + ", ".join("1" * 10) + "]"]
    for now, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{now}: &{now} [" + ", ".join([f"*{before}"] * 10) + "]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 2\n  d: 3\n  c: 4", "has the key 'c' twice, again at line 5"),
        ("- {a: 1, b: 2, 'a': 3}", "has the key 'a' twice, again at line 1"),
        ("steps: 1\n\n\nsteps: 2", "has the key 'steps' twice, again at line 4"),
        ("1: a\n0x1: b", "has the key '0x1' twice, again at line 2"),
        ("[" * 100_000, "is nested more than 64 deep at line 1"),
        ("{a: " * 100_000, "is nested more than 64 deep at line 1"),
        ("- " * 100_000, "is nested more than 64 deep at line 1"),
        ("a: 1\n" * 1_000_000, "is more than 1,048,576 bytes long"),
        (bomb(), "has more than 100,000 values at line 5"),
        ("a: &a [*a]", r"holds itself: \*a at line 1"),
        ("a: 1\n--- \nb: 2", "holds 2 YAML documents, not one"),
        ("a: [", "is not valid YAML at line"),
        ("a: !!python/name:os.system", "is not valid YAML at line 1"),
        ("2001-99-99", "is not valid YAML: month must be"),
        ("? [1]\n: 2", "is not valid YAML at line 1: found unhashable key"),
        ("\x00", "is not valid YAML"),
    ],
)
@pytest.mark.parametrize("loader", ["as installed", "without libyaml"])
def test_what_nobody_means_is_refused_in_one_line(
    text: str, message: str, loader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader == "without libyaml":
        monkeypatch.setattr(yaml_document, "_SAFE_LOADER", yaml.SafeLoader)
    with pytest.raises(DocumentError, match=message) as refused:
        read_yaml(text)
    assert "\n" not in str(refused.value)


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(DocumentError, match="is not UTF-8: invalid start byte at byte 3"):
        read_yaml(b"a: \xff")
    with pytest.raises(DocumentError, match="bytes long"):
        read_documents(b"\xff" * (MOST_BYTES + 1))
