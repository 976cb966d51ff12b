"""``florencectl evidence``: what the ranks of an attempt did that did not stop as asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from florencectl.choosing import is_local
from florencectl.cluster.connection import Place
from florencectl.completing import stages_of_job
from florencectl.options import Context, Endpoint, JobName, Kubeconfig, Local, Namespace


def evidence(
    name: JobName,
    stage: Annotated[
        str | None,
        typer.Option(
            help="Stage; default: the one with the newest evidence.", autocompletion=stages_of_job
        ),
    ] = None,
    attempt: Annotated[
        int | None, typer.Option(min=1, help="Attempt; default: the last that left some.")
    ] = None,
    worker: Annotated[
        int | None, typer.Option(min=0, help="Print all that this worker's pod left.")
    ] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Print the stacks of this rank.")] = None,
    directory: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder to fetch it to, with dumps of NCCL."),
    ] = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Say which ranks waited for which, list what they left, print it or fetch it.

    Ranks that do not stop as they are asked to, such as those of a stalled attempt, are asked for
    the stacks of all their threads; these are kept beside the attempt's logs with the newest log
    lines, the GPUs' Xid lines where they may be read, and dumps of NCCL's flight recorder.
    """
    from florencectl.evidence import Wanted, show

    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        from florencectl.local_logs import kept_logs

        logs = kept_logs(name, namespace or "default", stage)
    else:
        from florencectl.cluster.log_streams import kept_logs as kept_on_cluster

        logs = kept_on_cluster(place, name, stage, endpoint)
    wanted = Wanted(stage=stage, attempt=attempt, worker=worker, rank=rank, directory=directory)
    show(name, logs, wanted)
