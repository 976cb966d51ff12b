"""``florencectl events``: what Kubernetes tells of a job, its children and its pods."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from florence_operator.api.times import timestamp
from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import Context, JobName, Kubeconfig, Namespace
from florencectl.output import TableStream, note

if TYPE_CHECKING:
    from florence_operator.kube.client import Client
    from florencectl.explain.snapshot import Event

_COLUMNS = ["last seen", "type", "reason", "object", "count", "message"]
_SECONDS_BETWEEN_LOOKS = 2.0


def events(
    name: JobName,
    namespace: Namespace = None,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with every event.")] = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the events of a job on a cluster, of its children and its pods, oldest first."""
    from florencectl.explain.snapshot import take_snapshot

    async def show(client: Client, where: str) -> None:
        table, known = TableStream(_COLUMNS), set[Any]()
        while True:
            facts = await take_snapshot(client, where, name, nodes=False)
            new = [event for event in facts.events if event not in known]
            known.update(new)
            table.add(map(_cells, new))
            if not watch:
                break
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        if not known:
            note(f"no events of job '{name}': Kubernetes keeps them for an hour by default")

    on_cluster(Place(kubeconfig, context, namespace), show)


def _cells(event: Event) -> list[str]:
    message = " ".join(event.message.split())
    seen = timestamp(event.last)
    return [seen, event.kind, event.reason, event.about, str(event.count), message]
