"""Follow jobs as they change, through lost connections and forgetful servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = dict[str, Any]
Change = tuple[str, Document]

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 15.0
MOST_FAILURES = 20


async def changes(
    client: Client,
    namespace: str | None,
    *,
    name: str = "",
    labels: str = "",
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> AsyncIterator[list[Change]]:
    """Every job as it is, as one batch, then each change as it comes.

    A change is ADDED, MODIFIED or DELETED and the job. Nothing is told twice, and what was deleted
    while the connection was lost is told when it is back.

    Raises:
        ApiError: the server refuses, or has not answered for a long time.
    """
    from florence_operator.kube.client import FLORENCE_JOBS, ApiError

    fields = f"metadata.name={name}" if name else ""
    known: dict[tuple[str, str], Document] = {}
    version, first, failures = "", True, 0
    while True:
        try:
            if not version:
                jobs, version = await client.list(
                    FLORENCE_JOBS, namespace, labels=labels, fields=fields
                )
                batch = _difference(known, jobs)
                known = {_key(job): job for job in jobs}
                if batch or first:
                    first = False
                    yield batch
            events = client.watch(
                FLORENCE_JOBS, namespace, labels=labels, fields=fields, resource_version=version
            )
            async for kind, job in events:
                failures = 0
                version = job["metadata"]["resourceVersion"]
                if kind == "DELETED":
                    known.pop(_key(job), None)
                elif kind != "BOOKMARK":
                    known[_key(job)] = job
                if kind != "BOOKMARK":
                    yield [(kind, job)]
        except ApiError as error:
            failures += 1
            if error.gone:
                version = ""
            elif failures >= MOST_FAILURES or (error.status and error.status not in _PASSING):
                raise
            await sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (failures - 1)))


_PASSING = (410, 429, 500, 502, 503, 504)


def _key(job: Document) -> tuple[str, str]:
    return job["metadata"]["namespace"], job["metadata"]["name"]


def _difference(known: dict[tuple[str, str], Document], jobs: list[Document]) -> list[Change]:
    """What happened between two lists."""
    now = {_key(job) for job in jobs}
    gone: list[Change] = [("DELETED", job) for key, job in known.items() if key not in now]
    new: list[Change] = []
    for job in jobs:
        before = known.get(_key(job))
        if before is None:
            new.append(("ADDED", job))
        elif before["metadata"].get("resourceVersion") != job["metadata"].get("resourceVersion"):
            new.append(("MODIFIED", job))
    return gone + new
