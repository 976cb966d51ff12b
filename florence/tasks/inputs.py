"""What a prediction takes: the source of command-line help, MLflow's signature and the docs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Type = Literal["image", "video", "text", "texts", "templates", "number", "integer", "seconds"]
"""``image``, ``video``: bytes of a file (base64 on the wire); ``texts``: a list of texts;
``templates``: a list of sentences with {}, on the command line also the name of a built-in list or
a file; ``seconds``: a number, on the command line also 2s, 500ms or 1m."""

LISTS = ("texts", "templates")
FILES = ("image", "video")
"""Types whose values are files."""


def texts_in(line: str) -> list[str]:
    """The texts between commas, in their order; one with a comma stands in double quotes."""
    fields = next(csv.reader([line], skipinitialspace=True), [])
    return [field.strip() for field in fields if field.strip()]


def line_of(texts: Sequence[str]) -> str:
    """The line that :func:`texts_in` reads these texts from."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(texts)
    return line.getvalue()


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One value of every row."""

    name: str
    type: Type
    help: str
    required: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One value for all rows; a column of the same name, where there is one, wins over it.

    ``required`` ones are asked for where a person predicts (``florencectl predict``); a program
    that leaves one out gets what the task answers without it.
    """

    name: str
    type: Type
    help: str
    default: str | int | float | tuple[str, ...] | None = None
    required: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """The columns and parameters of a prediction."""

    columns: tuple[Column, ...]
    parameters: tuple[Parameter, ...] = ()

    @property
    def medium(self) -> Type:
        """``image`` or ``video``: what a row has a file of; the column is called so, too."""
        return next((column.type for column in self.columns if column.type in FILES), "image")

    @property
    def given(self) -> tuple[Column | Parameter, ...]:
        """What is given beside images, each name once: parameters, then other columns."""
        named = {parameter.name for parameter in self.parameters}
        others = [c for c in self.columns if c.type not in FILES and c.name not in named]
        return (*self.parameters, *others)
