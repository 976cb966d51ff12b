"""The objects of one kind that are known here, newest versions only, with indices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

Document = dict[str, Any]
Index = Callable[[Document], list[str]]

# How long a deletion is remembered: longer than any answer of a write can be under way.
REMEMBERED = 120.0


class Key(NamedTuple):
    """Which object."""

    namespace: str
    name: str


class Change(NamedTuple):
    """What happened to an object: ``old`` is None when it is new, ``new`` when it is deleted."""

    old: Document | None
    new: Document | None


def key_of(document: Mapping[str, Any]) -> Key:
    """The key of an object; objects that belong to no namespace have '' for it."""
    metadata = document.get("metadata") or {}
    return Key(metadata.get("namespace") or "", metadata.get("name") or "")


def version_of(document: Mapping[str, Any]) -> int:
    """The resourceVersion as the number that it is; 0 for an object without one."""
    return version_number((document.get("metadata") or {}).get("resourceVersion"))


def version_number(version: str | None) -> int:
    """A resourceVersion as a number."""
    return int(version) if version and version.isdecimal() else 0


class Store:
    """Objects by key; an older version never takes the place of a newer one.

    A server that was restored from a backup begins again at an older version; it is believed once
    :meth:`start_anew` was called.
    """

    def __init__(
        self,
        indices: Mapping[str, Index] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objects: dict[Key, Document] = {}
        self._indices = dict(indices or {})
        self._places: dict[str, dict[str, dict[Key, None]]] = {name: {} for name in self._indices}
        self._deleted: dict[Key, tuple[int, float]] = {}
        self._before: set[Key] = set()
        """Those whose versions are of the server's history before it was restored."""
        self._clock = clock

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Document | None:
        """One object."""
        return self._objects.get(key)

    def all(self) -> list[Document]:
        """Every object."""
        return list(self._objects.values())

    def by_index(self, index: str, value: str) -> list[Document]:
        """The objects for which the index gives ``value``."""
        return [self._objects[key] for key in self._places[index].get(value, ())]

    def put(self, document: Document) -> Change | None:
        """Takes a version of an object; None when it is not newer than what is known."""
        key, version = key_of(document), version_of(document)
        old = self._objects.get(key)
        if old is not None and version_of(old) >= version and key not in self._before:
            return None
        if version <= self._deleted.get(key, (-1, 0.0))[0]:
            return None
        self._deleted.pop(key, None)
        self._set(key, document)
        return Change(old, document)

    def remove(self, key: Key, version: int) -> Change | None:
        """Forgets an object that was deleted at ``version``; None when a newer one is known."""
        old = self._objects.get(key)
        if old is not None and version_of(old) > version and key not in self._before:
            return None
        self._remember(key, version)
        if old is None:
            return None
        self._set(key, None)
        return Change(old, None)

    def retain(self, listed: Set[Key], namespace: str, version: int) -> list[Change]:
        """Forgets what is missing from a list of one namespace ('' is all), made at ``version``.

        What is known in a newer version than the list's was written after it, and stays.
        """
        missing = [
            key
            for key in self._objects
            if (not namespace or key.namespace == namespace) and key not in listed
        ]
        changes = [self.remove(key, version) for key in missing]
        return [change for change in changes if change is not None]

    def newest(self, namespace: str) -> int:
        """The highest version that is known of a namespace's objects ('' is all), 0 of none."""
        known = ((key, version_of(each)) for key, each in self._objects.items())
        deleted = ((key, version) for key, (version, _) in self._deleted.items())
        versions = (
            version
            for key, version in (*known, *deleted)
            if key not in self._before and namespace in ("", key.namespace)
        )
        return max(versions, default=0)

    def start_anew(self, namespace: str) -> None:
        """Takes any version of a namespace's objects ('' is all) from now on."""
        self._before |= {key for key in self._objects if namespace in ("", key.namespace)}
        kept = {key: v for key, v in self._deleted.items() if namespace not in ("", key.namespace)}
        self._deleted = kept

    def _set(self, key: Key, document: Document | None) -> None:
        self._before.discard(key)
        old = self._objects.pop(key, None)
        if document is not None:
            self._objects[key] = document
        for name, function in self._indices.items():
            places = self._places[name]
            for value in function(old) if old is not None else ():
                keys = places.get(value)
                if keys is not None:
                    keys.pop(key, None)
                    if not keys:
                        del places[value]
            for value in function(document) if document is not None else ():
                places.setdefault(value, {})[key] = None

    def _remember(self, key: Key, version: int) -> None:
        now = self._clock()
        known = self._deleted.pop(key, (0, 0.0))[0]
        self._deleted[key] = (max(version, known), now)
        # Oldest first: a deletion is moved to the end when it is remembered again.
        for old in list(self._deleted):
            if now - self._deleted[old][1] <= REMEMBERED:
                break
            del self._deleted[old]
