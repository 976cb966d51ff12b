"""What commands print: data on stdout as a table, json, yaml or names; all else on stderr."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TextIO

from florence.errors import ConfigurationError

_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"
_GAP = "   "
_QUIET = "FLORENCECTL_QUIET"
_PROGRESS = "FLORENCECTL_PROGRESS"


class Format(StrEnum):
    """The value of ``-o``."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class DocumentFormat(StrEnum):
    """The value of ``-o`` for commands that print one document, not a list of named things."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def print_list(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    output: Format,
    *,
    wide: Sequence[str] = (),
    documents: Sequence[Any] | None = None,
    name: str = "name",
) -> None:
    """Print things of one kind.

    Args:
        rows: one mapping per thing, from column to value; ``None`` shows as ``-``.
        columns: the columns of a table, in order.
        wide: further columns of ``-o wide``.
        documents: what json and yaml print; the rows when left out.
        name: the column that ``-o name`` prints.
    """
    if output is Format.NAME:
        for row in rows:
            print(row[name])
    elif output in (Format.JSON, Format.YAML):
        print_document(list(rows if documents is None else documents), output)
    else:
        shown = [*columns, *(wide if output is Format.WIDE else ())]
        print_table(shown, [[row.get(column) for column in shown] for row in rows])


def print_document(document: Any, output: Format | DocumentFormat) -> None:
    """Print plain values (mappings, lists, strings, numbers) as json or yaml."""
    if output == Format.YAML:
        import yaml

        yaml.safe_dump(document, sys.stdout, sort_keys=False, allow_unicode=True)
    else:
        print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print left-aligned columns, numbers to the right; the header is bold on a terminal."""
    body = [[_cell(value) for value in row] for row in rows]
    numeric = [_is_numeric(column) for column in zip(*body, strict=True)] or [False] * len(columns)
    header = [column.upper() for column in columns]
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = [
        _GAP.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in [header, *body]
    ]
    print(bold(lines[0], sys.stdout))
    for line in lines[1:]:
        print(line)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows as CSV with a header; lists and mappings as JSON."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [json.dumps(v) if isinstance(v, (list, tuple, Mapping)) else v for v in row] for row in rows
    )


class TableStream:
    """A table whose rows come one after another: columns only grow, the header is printed once."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = list(columns)
        self._widths = [len(column) for column in columns]
        self._begun = False

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """Print rows under the header."""
        body = [[_cell(value) for value in row] for row in rows]
        for row in body:
            self._widths = [max(w, len(c)) for w, c in zip(self._widths, row, strict=True)]
        if not self._begun and body:
            self._begun = True
            print(bold(self._line([column.upper() for column in self._columns]), sys.stdout))
        for row in body:
            print(self._line(row))
        sys.stdout.flush()

    def _line(self, cells: Sequence[str]) -> str:
        padded = (c.ljust(width) for c, width in zip(cells, self._widths, strict=True))
        return _GAP.join(padded).rstrip()


def print_line(document: Any) -> None:
    """Print a document as one line of JSON, at once."""
    print(json.dumps(document, ensure_ascii=False, default=str), flush=True)


def be_quiet() -> None:
    """Drop the notes of this process and of those that it starts."""
    os.environ[_QUIET] = "1"


def be_plain() -> None:
    """Show no colours in this process and in those that it starts."""
    os.environ["NO_COLOR"] = "1"


class ProgressStyle(StrEnum):
    """The value of ``--progress``."""

    AUTO = "auto"
    BAR = "bar"
    PLAIN = "plain"
    JSON = "json"


def show_progress_as(style: str) -> None:
    """Show runs in a style in this process and in those that it starts.

    Raises:
        ConfigurationError: there is no such style.
    """
    if style not in list(ProgressStyle):
        raise ConfigurationError(f"--progress {style}: use one of {', '.join(ProgressStyle)}")
    os.environ[_PROGRESS] = style


def progress_style() -> ProgressStyle:
    """The style that was asked for."""
    return ProgressStyle(os.environ.get(_PROGRESS, ProgressStyle.AUTO))


def note(message: str) -> None:
    """Tell the user something that is not data."""
    if not os.environ.get(_QUIET):
        with contextlib.suppress(OSError):  # a terminal that is closed
            print(message, file=sys.stderr, flush=True)


def bold(text: str, stream: TextIO) -> str:
    """``text`` in bold where ``stream`` is a terminal and NO_COLOR is unset."""
    return f"{_BOLD}{text}{_PLAIN}" if uses_colour(stream) else text


def uses_colour(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that may show colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def count(value: float) -> str:
    """A number to three digits in steps of a thousand: ``893M``, ``1.66T``, ``2.12e+22``."""
    for size, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size * 0.9995 <= abs(value) < 1e18:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def byte_size(value: float) -> str:
    """Bytes in GB (1e9), MB or kB with the digits that matter."""
    if value >= 1e9:
        return f"{value / 1e9:.1f} GB"
    if value >= 0.9995e6:
        return f"{value / 1e6:.3g} MB"
    return f"{value / 1e3:.3g} kB" if value >= 999.5 else f"{value:g} B"


def _cell(value: Any) -> str:
    return "-" if value is None else str(value)


def _is_numeric(column: Sequence[str]) -> bool:
    return all(cell == "-" or cell[:1].isdigit() for cell in column) and any(
        cell[:1].isdigit() for cell in column
    )


def plural(number: int, thing: str) -> str:
    """``1 pod``, ``2 pods``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
