"""``florencectl top``: the stages at work, live."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from florencectl.choosing import is_local, refuse_names_everywhere, refuse_on_machine
from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import (
    AllNamespaces,
    Context,
    JobNames,
    Kubeconfig,
    Local,
    Namespace,
    Output,
    Selector,
)
from florencectl.output import Format, note, print_document, print_list
from florencectl.stages_at_work import COLUMNS, JobAtWork, documents, rows

if TYPE_CHECKING:
    from rich.console import RenderableType

    from florence_operator.kube.client import Client

Look = Callable[[], Awaitable[list[JobAtWork]]]


def top(
    names: JobNames = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    output: Output = Format.TABLE,
    interval: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two looks.", metavar="SECONDS")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Look once; so it is without a terminal.")
    ] = False,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show the stages at work: steps, rate, data wait, memory and time left, until interrupted."""
    place = Place(kubeconfig, context, namespace)
    refuse_names_everywhere(names, all_namespaces)
    live = sys.stdout.isatty() and not once and output in (Format.TABLE, Format.WIDE)
    every = interval if live else None
    if is_local(local, place):
        refuse_on_machine({"--selector": bool(selector)})
        where = None if all_namespaces else namespace or "default"

        async def look_here() -> list[JobAtWork]:
            from florencectl.local_jobs import jobs_here

            return [
                JobAtWork(job.namespace, job.metadata.name, job.status)
                for job in jobs_here(names or (), where)
                if job.status
            ]

        asyncio.run(_show(look_here, output, every, everywhere=all_namespaces))
        return

    async def show(client: Client, own: str) -> None:
        from florencectl.cluster.jobs import get_job, list_jobs, status_of

        async def look() -> list[JobAtWork]:
            if names:
                jobs = [await get_job(client, own, name) for name in names]
            else:
                jobs = await list_jobs(client, None if all_namespaces else own, selector)
            return [
                JobAtWork(job["metadata"]["namespace"], job["metadata"]["name"], status_of(job))
                for job in jobs
            ]

        await _show(look, output, every, everywhere=all_namespaces)

    on_cluster(place, show)


async def _show(look: Look, output: Format, every: float | None, *, everywhere: bool) -> None:
    """Print what is seen, once or every so many seconds."""
    columns = ["namespace", *COLUMNS] if everywhere else COLUMNS
    if every is not None:
        await _live(look, columns, every)
        return
    jobs = await look()
    if output in (Format.JSON, Format.YAML):
        print_document(documents(jobs, time.time()), output)
        return
    seen = rows(jobs, time.time())
    if not seen:
        note("no stage is at work")
    else:
        print_list(seen, columns, output)


async def _live(look: Look, columns: list[str], every: float) -> None:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(highlight=False), auto_refresh=False, screen=False) as live:
        while True:
            live.update(_table(columns, rows(await look(), time.time())), refresh=True)
            await asyncio.sleep(every)


def _table(columns: list[str], seen: list[dict[str, object]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    if not seen:
        return Text("no stage is at work")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column.upper(), no_wrap=True, overflow="ellipsis")
    for row in seen:
        table.add_row(*("-" if row[c] is None else str(row[c]) for c in columns))
    return table
