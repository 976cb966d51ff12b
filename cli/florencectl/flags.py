"""Command-line flags made from a settings model, so that flags, CRD and docs never differ."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from florence.config import Settings
from florence.config.yaml_document import DocumentError, read_yaml
from florence.errors import ConfigurationError

_PLAIN = (str, int, float, bool)


def flags_of(model: type[Settings]) -> list[inspect.Parameter]:
    """A keyword parameter for Typer per plain field: ``batch_size`` becomes ``--batch-size``.

    Groups of settings get no flag of their own: ``--set group.field=value`` reaches them. Every
    flag defaults to ``None``, so that only what the user typed is set.
    """
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_flag(name, field, plain)
        )
        for name, field in model.model_fields.items()
        if (plain := _plain_type(field.annotation)) is not None
    ]


def with_flags(
    function: Callable[..., None],
    model: type[Settings],
    *,
    name: str | None = None,
    summary: str | None = None,
) -> Callable[..., None]:
    """``function`` with its ``**fields`` replaced by the model's flags, for Typer to read.

    A field that is called like a parameter of the function has no flag: ``--set`` reaches it.
    """
    own = inspect.signature(function).parameters
    flags = [flag for flag in flags_of(model) if flag.name not in own]
    command = with_parameters(function, flags, name=name or function.__name__)
    command.__doc__ = summary or function.__doc__
    return command


def with_parameters(
    function: Callable[..., None], parameters: Sequence[inspect.Parameter], *, name: str
) -> Callable[..., None]:
    """``function`` with its keyword arguments replaced by parameters, for Typer to read."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    every = [
        *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own),
        *parameters,
    ]

    def command(**values: Any) -> None:
        function(**values)

    command.__doc__ = function.__doc__
    command.__name__ = name
    command.__annotations__ = {p.name: p.annotation for p in every}
    command.__signature__ = signature.replace(parameters=every)  # type: ignore[attr-defined]
    return command


def assign(assignments: Sequence[str]) -> dict[str, Any]:
    """``["optimizer.lr=3e-4"]`` as nested settings: ``{"optimizer": {"lr": "3e-4"}}``.

    Values are read as YAML, so numbers, true, false and [lists] are what they look like.

    Raises:
        ConfigurationError: an assignment has no ``=``, no valid value, or sets a field of a value.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not all(path.split(".")):
            raise ConfigurationError(
                f"--set {assignment}: write it as field=value or group.field=value"
            )
        try:
            value = read_yaml(text)
        except DocumentError as error:
            raise ConfigurationError(f"--set {path}=…: the value {error}") from None
        *groups, name = path.split(".")
        inner = settings
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(f"--set {assignment}: '{group}' was set to a value before")
        inner[name] = value
    return settings


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with those of ``second`` put over those of ``first``."""
    result = dict(first)
    for key, value in second.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def _plain_type(annotation: Any) -> type | None:
    """The type of a plain field, ``X`` for ``X | None``; ``None`` for groups and lists."""
    kinds = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    kind = kinds[0]
    if len(kinds) == 1 and isinstance(kind, type) and (kind in _PLAIN or issubclass(kind, StrEnum)):
        return kind
    return None


def _flag(name: str, field: FieldInfo, kind: type) -> Any:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    text = field.description or ""
    if "unit" in extra:
        text += f" [{extra['unit']}]"
    if field.is_required():
        text += " (required)"
    elif field.default is not None:
        text += f" (default: {field.default})"
    flag = f"--{name.replace('_', '-')}"
    spelling = f"{flag}/--no-{flag[2:]}" if kind is bool else flag
    return Annotated[kind | None, typer.Option(spelling, help=text, show_default=False)]
