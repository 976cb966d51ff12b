"""A cache of the objects of one kind, kept up to date by list and watch, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

from florence_operator.kube.client import Client, Page
from florence_operator.kube.errors import ApiError
from florence_operator.kube.rate_limits import Backoff
from florence_operator.kube.resources import Resource
from florence_operator.runtime.store import (
    Change,
    Document,
    Index,
    Key,
    Store,
    key_of,
    version_number,
)

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

# After so many failures in a row the objects are listed again instead of watched on.
FAILURES_BEFORE_LIST = 4

log = logging.getLogger(__name__)

Handler = Callable[[Document | None, Document | None], None]


def slim(document: Document) -> Document:
    """The object without what only its writers need: it is most of many objects' memory."""
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        metadata.pop("managedFields", None)
        annotations = metadata.get("annotations")
        if isinstance(annotations, dict):
            annotations.pop(LAST_APPLIED, None)
    return document


class Informer:
    """Follows one resource in all namespaces, or in some; documents it gives are not to be changed.

    ``transform`` gets each document and gives what is kept of it; it must keep ``metadata``'s name,
    namespace and resourceVersion.
    """

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespaces: Sequence[str] = (),
        labels: str = "",
        fields: str = "",
        transform: Callable[[Document], Document] | None = None,
        indices: Mapping[str, Index] | None = None,
        page_size: int = 500,
        watch_seconds: int = 290,
        idle_seconds: float = 90.0,
        backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.resource = resource
        self.synced = asyncio.Event()
        """Set when every namespace has been listed once."""
        self._client = client
        self._namespaces = tuple(namespaces) or ("",)
        self._labels = labels
        self._fields = fields
        self._transform = transform
        self._page_size = page_size
        self._watch_seconds = watch_seconds
        self._idle_seconds = idle_seconds
        self._backoff = backoff or Backoff(first=0.5, longest=30.0)
        self._clock = clock
        self._sleep = sleep
        self._store = Store(indices, clock=clock)
        self._handlers: list[Handler] = []
        self._versions = dict.fromkeys(self._namespaces, "")
        self._failures = dict.fromkeys(self._namespaces, 0)
        self._listed: set[str] = set()
        self._active = dict.fromkeys(self._namespaces, clock())

    def __len__(self) -> int:
        return len(self._store)

    def get(self, namespace: str | None, name: str) -> Document | None:
        """One object, or None."""
        return self._store.get(Key(namespace or "", name))

    def by_index(self, index: str, key: str) -> list[Document]:
        """The objects for which the index gives ``key``."""
        return self._store.by_index(index, key)

    def all(self) -> list[Document]:
        """Every object."""
        return self._store.all()

    def add_handler(self, handler: Handler) -> None:
        """Calls ``handler(old, new)`` at every change; ``new`` is None for a deletion."""
        self._handlers.append(handler)

    def put(self, document: Document) -> None:
        """Takes the answer of a write, so that the next read sees it before the watch tells of it.

        An older version than the known one is ignored, and so is one from before a deletion.
        """
        self._tell(self._store.put(self._kept(document)))

    @property
    def silent_seconds(self) -> float:
        """For how long nothing at all was tried: a healthy informer tries at least each watch."""
        return self._clock() - min(self._active.values())

    @property
    def stuck(self) -> bool:
        """Whether it does not even try any more."""
        return self.silent_seconds > 2 * (self._watch_seconds + self._idle_seconds)

    async def run(self) -> None:
        """Lists and watches until it is cancelled; no answer of the server ends it."""
        async with asyncio.TaskGroup() as group:
            for namespace in self._namespaces:
                group.create_task(self._follow(namespace), name=f"{self.resource.plural} informer")

    async def _follow(self, namespace: str) -> None:
        while True:
            self._active[namespace] = self._clock()
            try:
                if not self._versions[namespace]:
                    await self._list(namespace)
                await self._watch(namespace)
            except Exception as error:
                self._failures[namespace] += 1
                self._after(error, namespace)
                if isinstance(error, ApiError) and error.silent:
                    continue  # most likely nothing happened, and nothing may be missed now
            await self._sleep(self._backoff.delay(self._failures[namespace]))

    def _after(self, error: Exception, namespace: str) -> None:
        """Decides from where to go on; whatever the error, the cache must follow the server."""
        failures = self._failures[namespace]
        expected = isinstance(error, ApiError)
        gone = isinstance(error, ApiError) and error.gone
        silent = isinstance(error, ApiError) and error.silent
        relist = gone or not expected or failures % FAILURES_BEFORE_LIST == 0
        if relist:
            self._versions[namespace] = ""
        level = logging.INFO if expected and failures < 3 else logging.WARNING
        log.log(
            logging.DEBUG if silent else level,
            "lost the watch of %s%s, %s: %s",
            self.resource.plural,
            f" in {namespace}" if namespace else "",
            "listing again" if relist else "watching on",
            error,
            exc_info=None if expected else error,
        )

    async def _list(self, namespace: str) -> None:
        listed: set[Key] = set()
        before = self._store.newest(namespace)
        page = Page([], "", "")
        async for page in self._pages(namespace):
            self._active[namespace] = self._clock()
            version = version_number(page.resource_version)
            if 0 < version < before:
                # Lists are never older than what was told before: somebody restored a backup.
                log.warning(
                    "%s: the server's history has gone back from %d to %d: it is taken anew",
                    *(self.resource.plural, before, version),
                )
                self._store.start_anew(namespace)
                before = 0
            # Page by page, so that a second list never holds all objects twice.
            for document in page.items:
                listed.add(key_of(document))
                self.put(document)
        version = version_number(page.resource_version)
        for change in self._store.retain(listed, namespace, version):
            self._tell(change)
        self._versions[namespace] = page.resource_version
        self._listed.add(namespace)
        if len(self._listed) == len(self._namespaces):
            self.synced.set()

    async def _pages(self, namespace: str) -> AsyncGenerator[Page, None]:
        """The list in parts: the first one as the API server remembers it, later ones from etcd."""
        where = {"labels": self._labels, "fields": self._fields}
        if namespace not in self._listed and not self._failures[namespace]:
            async with aclosing(
                self._client.stream(self.resource, namespace or None, **where)
            ) as parts:
                async for page in parts:
                    yield page
            return
        token = ""
        while True:
            page = await self._client.page(
                self.resource, namespace or None, **where, limit=self._page_size, token=token
            )
            yield page
            token = page.token
            if not token:
                return

    async def _watch(self, namespace: str) -> None:
        started = self._clock()
        heard = False
        events = self._client.watch(
            self.resource,
            namespace or None,
            labels=self._labels,
            fields=self._fields,
            resource_version=self._versions[namespace],
            timeout_seconds=self._watch_seconds,
            idle_seconds=self._idle_seconds,
        )
        async with aclosing(events):
            async for kind, document in events:
                heard = True
                self._failures[namespace] = 0
                self._active[namespace] = self._clock()
                self._take(kind, document, namespace)
        if not heard and self._clock() - started < 1.0:
            # A server that hangs up at once must not be asked again in a tight loop.
            raise ApiError(0, "Empty", "the watch ended at once, without an event")
        self._failures[namespace] = 0

    def _take(self, kind: str, document: Document, namespace: str) -> None:
        version = (document.get("metadata") or {}).get("resourceVersion") or ""
        if version and version_number(version) < version_number(self._versions[namespace]):
            # A watch goes forward only: the server was restored from a backup. One that says
            # nothing at all of what it takes for the future is listed after some silence.
            raise ApiError(410, "Expired", "the server's history has gone back")
        if kind == "DELETED":
            self._tell(self._store.remove(key_of(document), version_number(version)))
        elif kind in ("ADDED", "MODIFIED"):
            self.put(document)
        if version:
            self._versions[namespace] = version

    def _kept(self, document: Document) -> Document:
        document = slim(document)
        return self._transform(document) if self._transform is not None else document

    def _tell(self, change: Change | None) -> None:
        if change is None:
            return
        for handler in self._handlers:
            try:
                handler(change.old, change.new)
            except Exception:
                log.exception("a handler of %s failed", self.resource.plural)
