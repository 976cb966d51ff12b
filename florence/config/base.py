"""The base of every settings model: camelCase on the wire, snake_case here, nothing unknown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticKnownError, to_jsonable_python


class Settings(BaseModel):
    """A frozen group of settings that refuses unknown fields.

    Both spellings are read, ``batchSize`` and ``batch_size``; :meth:`wire` writes camelCase.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=to_camel,
        populate_by_name=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's ``true``, ``yes`` and ``on`` are no number 1, though Python's ``True`` is."""
        if isinstance(value, list | tuple):
            for each in value:
                cls._is_no_boolean_for_a_number(each, info)
        elif isinstance(value, bool) and info.field_name is not None:
            kinds = _plain_types(cls.model_fields[info.field_name].annotation)
            if bool not in kinds:
                if int in kinds:
                    raise PydanticKnownError("int_type")
                if float in kinds:
                    raise PydanticKnownError("float_type")
        return value

    def wire(self, *, defaults: bool = True) -> dict[str, Any]:
        """The settings as JSON values under their camelCase names.

        Fields that are ``None`` are left out; with ``defaults=False`` so are fields never set.
        """
        return self.model_dump(
            mode="json", by_alias=True, exclude_none=True, exclude_unset=not defaults
        )


def first_problem(error: ValidationError) -> str:
    """The first finding of pydantic as ``path.to.field: what is wrong``."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def setting(
    default: Any = ...,
    *,
    description: str,
    unit: str | None = None,
    affects_result: bool = True,
    **constraints: Any,
) -> Any:
    """A field with a description and, where it measures something, a unit.

    Both reach the CRD, ``--help`` and the docs. ``constraints`` are pydantic's (``ge``, ``le``, …).

    Args:
        affects_result: whether training reaches other parameters when it changes; a stage resumes
            under changed settings only where none of them does (:func:`resume_fingerprint`).
    """
    extra: dict[str, JsonValue] = {"unit": unit} if unit else {}
    if not affects_result:
        extra["affectsResult"] = False
    return Field(default, description=description, json_schema_extra=extra or None, **constraints)


class Holds(StrEnum):
    """What is found where a location leads to: whoever starts a stage may look before it does."""

    DATA = "data"
    PROMPTS = "prompts"
    TEMPLATES = "templates"
    MODEL = "model"


def location(
    default: Any = ...,
    *,
    description: str,
    holds: Holds | None = None,
    names: Sequence[str] = (),
    affects_result: bool = True,
    **constraints: Any,
) -> Any:
    """A field that holds the URI or path of something that the stage reads.

    Args:
        holds: what must be there, where that can be told at a glance.
        names: what the field takes beside URIs, such as the names of built-in lists.
    """
    extra: dict[str, JsonValue] = {"location": list(names), "holds": holds}
    if not affects_result:
        extra["affectsResult"] = False
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def settings_group(kind: type[Settings], *, description: str, affects_result: bool = True) -> Any:
    """A field that holds another settings model and defaults to that model's defaults."""
    extra: dict[str, JsonValue] | None = None if affects_result else {"affectsResult": False}
    return Field(default_factory=kind, description=description, json_schema_extra=extra)


@dataclass(frozen=True, slots=True)
class Location:
    """A URI or path in settings.

    Attributes:
        field: the path of its field, such as ``text.templates``.
        uri: as the user gave it.
        holds: what must be there, if that is known.
        owner: the group of settings that has the field.
    """

    field: str
    uri: str
    holds: Holds | None
    owner: Settings


def locations(settings: Settings) -> Iterator[tuple[str, str]]:
    """The URIs and paths in ``settings``, each with its field's path such as ``text.templates``.

    Names of built-in things are left out.
    """
    yield from ((found.field, found.uri) for found in located(settings))


def located(settings: Settings) -> Iterator[Location]:
    """The same with all that is known of them."""
    for wire_name, field, value in _fields(settings):
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        names = extra.get("location")
        if isinstance(names, list):
            values = value if isinstance(value, tuple) else (value,)
            holds = extra.get("holds")
            for each in values:
                if isinstance(each, str) and each not in names:
                    kind = holds if isinstance(holds, Holds) else None
                    yield Location(wire_name, each, kind, settings)
        elif isinstance(value, Settings):
            yield from (_below(wire_name, found) for found in located(value))
        elif isinstance(value, tuple):
            for index, inner in enumerate(value):
                if isinstance(inner, Settings):
                    yield from (_below(f"{wire_name}[{index}]", found) for found in located(inner))


def _below(path: str, found: Location) -> Location:
    return replace(found, field=f"{path}.{found.field}")


def resume_fingerprint(settings: Settings) -> dict[str, Any]:
    """The settings that decide what training reaches, flat, by dotted field path."""
    flat: dict[str, Any] = {}
    for wire_name, field, value in _fields(settings):
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("affectsResult", True) is False or value is None:
            continue
        if isinstance(value, Settings):
            inner = resume_fingerprint(value)
            flat |= {f"{wire_name}.{path}": leaf for path, leaf in inner.items()}
        else:
            flat[wire_name] = to_jsonable_python(value, by_alias=True)
    return flat


def _fields(settings: Settings) -> Iterator[tuple[str, FieldInfo, Any]]:
    for name, field in type(settings).model_fields.items():
        yield field.alias or name, field, getattr(settings, name)


def _plain_types(annotation: Any) -> set[Any]:
    """``int`` and ``None`` of ``tuple[int, ...] | None``; a settings model is one of its own."""
    arguments = get_args(annotation)
    if not arguments:
        return {annotation}
    return set().union(*(_plain_types(argument) for argument in arguments))
