"""The caches of all kinds of children that the cluster serves, as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from florence_operator.backends.choice import Installed
from florence_operator.backends.registry import BACKENDS
from florence_operator.runtime.informer import Handler, Informer

Document = dict[str, Any]


class Children:
    """An informer for each kind; a kind whose CRD appears later is added while all of it runs."""

    def __init__(self, informers: Iterable[Informer] = ()) -> None:
        self._informers = {informer.resource.kind: informer for informer in informers}
        self._handlers: list[Handler] = []
        self.unqueued: frozenset[str] = frozenset()
        """Kinds that Kueue was found to take no notice of."""

    @property
    def installed(self) -> Installed:
        """What children the cluster takes."""
        served = tuple(kind for kind in BACKENDS if kind in self._informers)
        return Installed(served=served, unqueued=self.unqueued)

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds that are followed."""
        return frozenset(self._informers)

    @property
    def informers(self) -> list[Informer]:
        """One for each kind."""
        return list(self._informers.values())

    def add(self, informer: Informer) -> None:
        """Follow another kind from now on; its changes are told as those of the others are."""
        for handler in self._handlers:
            informer.add_handler(handler)
        self._informers[informer.resource.kind] = informer

    def add_handler(self, handler: Handler) -> None:
        """Calls ``handler(old, new)`` at every change of a child, of whichever kind."""
        self._handlers.append(handler)
        for informer in self.informers:
            informer.add_handler(handler)

    def by_index(self, index: str, key: str) -> list[Document]:
        """The objects for which the index gives ``key``."""
        return [d for informer in self.informers for d in informer.by_index(index, key)]

    def get(self, kind: str, namespace: str | None, name: str) -> Document | None:
        """One object, or None."""
        informer = self._informers.get(kind)
        return informer.get(namespace, name) if informer is not None else None

    def put(self, document: Document) -> None:
        """Takes the answer of a write."""
        self._informers[document["kind"]].put(document)
