"""Pydantic's findings as lines to act on: ``spec.stages[0].pretrain.batchSize: must be …``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("greater than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a string",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}
_LONGEST_VALUE = 80


def problems(
    error: ValidationError, *, model: type[BaseModel] | None = None, source: str = ""
) -> list[str]:
    """One line per finding: where, what is wrong, what would be right.

    Args:
        error: what pydantic raised.
        model: the validated model; with it, misspelt fields get a suggestion.
        source: the file or flag the values came from, put before every line.
    """
    prefix = f"{source}: " if source else ""
    findings = error.errors(include_url=False)
    return [f"{prefix}{_line(f, model)}" for f in findings if not _follows(f, findings)]


def field_path(location: Sequence[int | str]) -> str:
    """A path as users write it: ``('stages', 0, 'batch_size')`` -> ``stages[0].batchSize``."""
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", part):
            path += f".{to_camel(part)}"
        else:
            path += f".{part}"
    return path.lstrip(".")


def _follows(finding: ErrorDetails, findings: Sequence[ErrorDetails]) -> bool:
    """Whether a list is too short only because its items are wrong, which other findings say."""
    at = finding["loc"]
    return finding["type"] == "too_short" and any(
        len(other["loc"]) > len(at) and other["loc"][: len(at)] == at for other in findings
    )


def _line(finding: ErrorDetails, model: type[BaseModel] | None) -> str:
    path = field_path(finding["loc"])
    message = _message(finding)
    if finding["type"] == "extra_forbidden":
        *above, name = finding["loc"]
        path = with_name(field_path(above), str(name))
        if model is not None:
            message += _suggestion(str(name), _fields_at(model, above))
    return f"{path}: {message}" if path else message


def with_name(path: str, name: str) -> str:
    """The path of an unknown field, its name as it was written."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,80}", name):
        return f"{path}[{_shortened(name)}]"
    return f"{path}.{name}" if path else name


def _message(finding: ErrorDetails) -> str:
    kind, value, context = finding["type"], finding["input"], finding.get("ctx", {})
    given = f", not {_shortened(value)}" if isinstance(value, str | int | float | bool) else ""
    if kind == "missing":
        return "is required"
    if kind == "extra_forbidden":
        return "is not a known field"
    if kind in ("value_error", "assertion_error", "refused"):
        return str(context["error"])
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"must be {words} {context[bound]:g}{given}"
    if kind == "too_short":
        return f"must have at least {context['min_length']} of them"
    if kind in ("enum", "literal_error"):
        return f"must be {context['expected']}{given}"
    if kind == "string_pattern_mismatch":
        return f"must match {context['pattern']}{given}"
    expected = _KINDS.get(kind.partition("_")[0])
    if expected and kind.endswith(("_type", "_parsing", "_from_float", "_attributes_type")):
        return f"must be {expected}{given}"
    return finding["msg"][0].lower() + finding["msg"][1:] + given


def _shortened(value: str | int | float | bool) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _suggestion(name: str, fields: Sequence[str]) -> str:
    close = get_close_matches(name, fields, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; use one of {', '.join(sorted(fields))}" if fields else ""


def _fields_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The wire names of the fields at ``location``; empty when no model is there."""
    reached: type[BaseModel] | None = model
    for part in location:
        if isinstance(part, str) and reached is not None:
            reached = next(_field_models(reached, part), None)
    if reached is None:
        return []
    return [field.alias or name for name, field in reached.model_fields.items()]


def _field_models(model: type[BaseModel], name: str) -> Iterator[type[BaseModel]]:
    for field_name, field in model.model_fields.items():
        if name in (field_name, field.alias):
            yield from _models_in(field.annotation)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
