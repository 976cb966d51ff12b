"""Where a model is from: the models it started from, across jobs, and what each learned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from florence.errors import FlorenceError
from florence_jobs.registry.references import is_reference, parse_reference
from florence_jobs.registry.store import ModelRegistry, Version
from florence_jobs.registry.tags import COMMIT, FINGERPRINT, IMAGE, PARENT

LONGEST = 50
"""Ancestors that are told at most: a chain of more is a circle."""


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A model of a lineage; ``version`` is none for one that is not registered."""

    uri: str
    version: Version | None

    @property
    def facts(self) -> dict[str, str | None]:
        """What is known of it, in columns."""
        tags = self.version.tags if self.version is not None else {}
        return {
            "model": self.uri,
            "job": tags.get("florence.name"),
            "stage": tags.get("florence.stage"),
            "attempt": tags.get("florence.attempt"),
            "data": tags.get("florence.data"),
            "fingerprint": tags.get(FINGERPRINT),
            "commit": tags.get(COMMIT),
            "image": tags.get(IMAGE),
            "uri": tags.get("florence.uri"),
        }


def lineage(registry: ModelRegistry, version: Version) -> list[Ancestor]:
    """A version and the models that it started from, the newest first."""
    return chain(version, lambda uri: registry.find(parse_reference(uri)))


def chain(version: Version, find: Callable[[str], Version]) -> list[Ancestor]:
    """The same with what finds a version by its reference; what is gone ends the line."""
    line = [Ancestor(version.uri, version)]
    while len(line) < LONGEST:
        last = line[-1].version
        parent = last.tags.get(PARENT) if last is not None else None
        if parent is None or parent in (each.uri for each in line):
            return line
        found = None
        if is_reference(parent):
            try:
                found = find(parent)
            except FlorenceError:
                found = None
        line.append(Ancestor(parent, found))
    return line
