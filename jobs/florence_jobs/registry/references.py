"""How a model of MLflow's registry is named: ``models:/NAME@ALIAS``, ``/VERSION``, ``models:/ID``.

Imports neither MLflow nor torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from florence.errors import ConfigurationError

SCHEME = "models:/"
CANDIDATE = "candidate"
"""Alias of the newest version of a model: every stage that leaves one moves it."""
CHAMPION = "champion"
"""Alias of the version that is in use: gates move it."""

_LOGGED = re.compile(r"m-[0-9a-f]+")
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,255}")
_FORMS = "write models:/NAME@champion, models:/NAME/3 or models:/NAME"


@dataclass(frozen=True, slots=True)
class Reference:
    """A model of the registry; at most one of ``version``, ``alias`` and ``model_id`` is given.

    With none of them the newest version is meant. ``model_id`` is a logged model, of no name.
    """

    name: str = ""
    version: str | None = None
    alias: str | None = None
    model_id: str | None = None

    def __str__(self) -> str:
        if self.model_id is not None:
            return f"{SCHEME}{self.model_id}"
        if self.alias is not None:
            return f"{SCHEME}{self.name}@{self.alias}"
        return f"{SCHEME}{self.name}" + (f"/{self.version}" if self.version else "")


def is_reference(uri: str) -> bool:
    """Whether a model's URI names one of the registry."""
    return uri.startswith(SCHEME)


def parse_reference(text: str) -> Reference:
    """A reference as a user writes it, with or without ``models:/`` before it.

    Raises:
        ConfigurationError: it is none; says how one is written.
    """
    rest = text.removeprefix(SCHEME)
    if _LOGGED.fullmatch(rest):
        return Reference(model_id=rest)
    name, at, alias = rest.rpartition("@")
    if at:
        if not _ALIAS.fullmatch(alias):
            raise ConfigurationError(f"'{text}': '{alias}' is no alias of a model: {_FORMS}")
        return _named(text, name, alias=alias)
    name, slash, version = rest.rpartition("/")
    if slash:
        if not version.isdecimal():
            raise ConfigurationError(f"'{text}': '{version}' is no version of a model: {_FORMS}")
        return _named(text, name, version=version)
    return _named(text, rest)


def _named(
    text: str, name: str, *, version: str | None = None, alias: str | None = None
) -> Reference:
    if not name or "/" in name or ":" in name:
        raise ConfigurationError(f"'{text}' names no model of the registry: {_FORMS}")
    return Reference(name, version, alias)


def registered_name(experiment: str, task: str) -> str:
    """What the models of an experiment and task are called; without ``/``, ``:`` and ``@``."""
    return re.sub(r"[/:@]+", "-", f"{experiment}-{task}")
