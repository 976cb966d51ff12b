"""The base of every settings model: camelCase on the wire, snake_case here, nothing unknown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic.alias_generators import to_camel


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
    default: Any = ..., *, description: str, unit: str | None = None, **constraints: Any
) -> Any:
    """A field with a description and, where it measures something, a unit.

    Both reach the CRD, ``--help`` and the docs. ``constraints`` are pydantic's (``ge``, ``le``, …).
    """
    extra: dict[str, JsonValue] | None = {"unit": unit} if unit else None
    return Field(default, description=description, json_schema_extra=extra, **constraints)


def settings_group(kind: type[Settings], *, description: str) -> Any:
    """A field that holds another settings model and defaults to that model's defaults."""
    return Field(default_factory=kind, description=description)
