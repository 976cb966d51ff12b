"""Tables, documents and names; colours only where they may be."""

from __future__ import annotations

import io
import json

import pytest
import yaml

from florencectl.output import (
    DocumentFormat,
    Format,
    bold,
    byte_size,
    count,
    print_document,
    print_list,
    print_table,
    uses_colour,
)

ROWS = [
    {"name": "florence-h", "steps": 1000, "note": None, "uri": "s3://a"},
    {"name": "x", "steps": 7, "note": "résumé", "uri": "s3://b"},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_table_aligns_text_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(ROWS, ["name", "steps", "note"], Format.TABLE)
    assert capsys.readouterr().out.splitlines() == [
        "NAME         STEPS   NOTE",
        "florence-h    1000   -",
        "x                7   résumé",
    ]


def test_wide_adds_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(ROWS, ["name"], Format.WIDE, wide=["uri"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["NAME", "URI"]


def test_names(capsys: pytest.CaptureFixture[str]) -> None:
    print_list(ROWS, ["name", "steps"], Format.NAME)
    assert capsys.readouterr().out == "florence-h\nx\n"


def test_json_and_yaml_hold_the_documents(capsys: pytest.CaptureFixture[str]) -> None:
    documents = [{"spec": {"text": "für"}}]
    print_list(ROWS, ["name"], Format.JSON, documents=documents)
    assert json.loads(capsys.readouterr().out) == documents
    print_list(ROWS, ["name"], Format.YAML, documents=documents)
    text = capsys.readouterr().out
    assert yaml.safe_load(text) == documents
    assert "für" in text


@pytest.mark.parametrize("output", [Format.JSON, Format.YAML])
def test_no_rows_are_an_empty_list(output: Format, capsys: pytest.CaptureFixture[str]) -> None:
    print_list([], ["name"], output)
    assert yaml.safe_load(capsys.readouterr().out) == []


def test_an_empty_table_is_its_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "age"], [])
    assert capsys.readouterr().out == "NAME   AGE\n"


def test_documents_keep_the_order_of_their_keys(capsys: pytest.CaptureFixture[str]) -> None:
    print_document({"b": 1, "a": 2}, DocumentFormat.YAML)
    assert capsys.readouterr().out == "b: 1\na: 2\n"


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert uses_colour(Terminal())
    assert bold("A", Terminal()) == "\x1b[1mA\x1b[0m"
    assert bold("A", io.StringIO()) == "A"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not uses_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not uses_colour(Terminal())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (999, "999"),
        (24_576, "24.6k"),
        (999_999, "1M"),
        (896e6, "896M"),
        (1.662e12, "1.66T"),
        (2.1e22, "2.1e+22"),
    ],
)
def test_counts_have_three_digits(value: float, text: str) -> None:
    assert count(value) == text


def test_byte_sizes() -> None:
    assert byte_size(40e9) == "40.0 GB"
    assert byte_size(28.9e6) == "28.9 MB"
