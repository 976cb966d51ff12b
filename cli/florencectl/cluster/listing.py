"""Print the jobs of a cluster, once or with every change."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.jobs import (
    RESOURCE_NAME,
    cells,
    columns,
    get_job,
    list_jobs,
    row,
    without_noise,
)
from florencectl.cluster.watching import changes
from florencectl.output import (
    Format,
    TableStream,
    note,
    print_document,
    print_line,
    print_list,
)

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = dict[str, Any]


def show_jobs(
    place: Place,
    names: Sequence[str],
    output: Format,
    *,
    labels: str,
    everywhere: bool,
    watch: bool,
) -> None:
    """Print the named jobs, or those that the labels select; with ``watch`` until interrupted."""

    async def show(client: Client, namespace: str) -> None:
        where = None if everywhere else namespace
        if watch:
            await _watch(client, where, names, output, labels)
            return
        if names:
            jobs = list(await asyncio.gather(*(get_job(client, namespace, n) for n in names)))
        else:
            jobs = await list_jobs(client, where, labels)
        if not jobs:
            note(f"no jobs in namespace '{where}'" if where else "no jobs")
        _print(jobs, output, one=len(names) == 1, namespaces=everywhere)

    on_cluster(place, show)


def _print(jobs: list[Document], output: Format, *, one: bool, namespaces: bool) -> None:
    if output in (Format.JSON, Format.YAML):
        documents = [without_noise(job) for job in jobs]
        whole = {"apiVersion": "v1", "kind": "List", "items": documents}
        print_document(documents[0] if one else whole, output)
    elif jobs:
        rows = [{**row(job, datetime.now(UTC)), "resource": _resource_name(job)} for job in jobs]
        shown = columns(wide=output is Format.WIDE, namespaces=namespaces)
        print_list(rows, shown, output, name="resource")


async def _watch(
    client: Client, namespace: str | None, names: Sequence[str], output: Format, labels: str
) -> None:
    wanted = set(names)
    for name in names:
        await get_job(client, namespace or "", name)  # tells a misspelt name at once
    shown = columns(wide=output is Format.WIDE, namespaces=namespace is None)
    table = TableStream(shown)
    only = names[0] if len(names) == 1 else ""
    async for batch in changes(client, namespace, name=only, labels=labels):
        told = [(k, job) for k, job in batch if not wanted or job["metadata"]["name"] in wanted]
        if output in (Format.TABLE, Format.WIDE):
            table.add(
                cells(_deleted(job) if kind == "DELETED" else job, shown) for kind, job in told
            )
            continue
        for _, job in told:
            if output is Format.NAME:
                print(_resource_name(job), flush=True)
            elif output is Format.JSON:
                print_line(without_noise(job))
            else:
                print("---")
                print_document(without_noise(job), output)


def _deleted(job: Document) -> Document:
    metadata = {k: v for k, v in job["metadata"].items() if k != "deletionTimestamp"}
    return {
        **job,
        "metadata": metadata,
        "status": {**(job.get("status") or {}), "phase": "Deleted"},
    }


def _resource_name(job: Document) -> str:
    return f"{RESOURCE_NAME}/{job['metadata']['name']}"
