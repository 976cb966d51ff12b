"""Find out which kinds of children the cluster takes, now and whenever that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from florence_operator.api.child_kinds import PYTORCH_JOB
from florence_operator.backends.protocol import Backend
from florence_operator.backends.pytorchjob import held_back, probe
from florence_operator.backends.registry import BACKENDS
from florence_operator.kube.client import Client
from florence_operator.kube.discovery import served
from florence_operator.kube.errors import ApiError
from florence_operator.observe.children import Children
from florence_operator.runtime.informer import Informer

SECONDS_BETWEEN_LOOKS = 30.0

log = logging.getLogger(__name__)

Document = dict[str, Any]


async def may_list(client: Client, path: str) -> bool:
    """Whether the operator has the right to list a collection."""
    try:
        await client.request("GET", path, query={"limit": 1})
    except ApiError as error:
        if error.forbidden:
            return False
        raise
    return True


class InstalledKinds:
    """Follows every kind of children whose CRD there is, and asks whether Kueue takes them.

    Args:
        children: gets an informer for each kind that is found.
        informer_of: makes it.
        namespaces: in which the operator may work; none for all of them.
        kueue: whether Kueue's Workloads are read.
        changed: called when another kind is taken, or one is taken by Kueue no more.
    """

    def __init__(
        self,
        client: Client,
        children: Children,
        informer_of: Callable[[Backend], Informer],
        *,
        namespaces: Sequence[str] = (),
        kueue: bool = False,
        changed: Callable[[], None] = lambda: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._children = children
        self._informer_of = informer_of
        self._namespaces = tuple(namespaces)
        self._kueue = kueue
        self._changed = changed
        self._sleep = sleep
        self._coming: dict[str, Informer] = {}
        """Informers that are not filled yet."""

    async def find(self) -> None:
        """Take every kind that there is now; the informers are for the caller to run."""
        for backend in await self._new():
            self._children.add(self._informer_of(backend))
        await self._ask_kueue()

    async def run(self) -> None:
        """Look for more again and again, and run the informers of what is found."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._sleep(SECONDS_BETWEEN_LOOKS)
                try:
                    await self._look(group)
                except (ApiError, OSError) as error:
                    log.info("cannot tell which kinds of children are installed: %s", error)
                for informer in self._coming.values():
                    if informer.stuck:
                        raise RuntimeError(f"the informer of {informer.resource.plural} is stuck")

    async def _look(self, group: asyncio.TaskGroup) -> None:
        for backend in await self._new():
            informer = self._coming[backend.kind] = self._informer_of(backend)
            group.create_task(informer.run(), name=f"{backend.kind} informer")
            group.create_task(self._take(informer), name=f"{backend.kind} taken up")
        before = self._children.unqueued
        await self._ask_kueue()
        if self._children.unqueued != before:
            self._changed()

    async def _take(self, informer: Informer) -> None:
        """Only a filled cache counts: what it does not hold is taken for absent."""
        await informer.synced.wait()
        self._children.add(informer)
        log.info("found %s", informer.resource.plural)
        self._changed()

    async def _new(self) -> list[Backend]:
        known = self._children.kinds | set(self._coming)
        missing = [backend for kind, backend in BACKENDS.items() if kind not in known]
        return [backend for backend in missing if await self._usable(backend)]

    async def _usable(self, backend: Backend) -> bool:
        for resource in backend.needed:
            if await served(self._client, resource, (resource.version,)) is None:
                return False
        namespace = self._namespaces[0] if self._namespaces else None
        if await may_list(self._client, backend.resource.path(namespace)):
            return True
        log.warning("%s are served, and may not be listed: see RBAC", backend.resource.plural)
        return False

    async def _ask_kueue(self) -> None:
        """Whether Kueue takes PyTorchJobs, which it does not by default since 0.19.

        What it is configured to is for nobody to read; a PyTorchJob with a queue that is only tried
        (``dryRun``) comes back suspended where it does. It matters where there is a choice.
        """
        if not (self._kueue and len(self._children.kinds) > 1):
            return
        namespace = self._namespaces[0] if self._namespaces else self._client.namespace
        try:
            tried = await self._client.create(probe(namespace), dry_run=True)
        except ApiError as error:
            log.info("cannot tell whether Kueue takes PyTorchJobs: %s", error)
            return
        self._children.unqueued = frozenset(() if held_back(tried) else (PYTORCH_JOB.name,))
