"""What the shell offers after a command: names of jobs, quickly or not at all."""

from __future__ import annotations

import io
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress

import typer

LONGEST_WAIT = 2.0
FILES_TOO, NO_FILES = 0, 4  # what kubectl's completion does when nothing is offered


def job_names(context: typer.Context, incomplete: str) -> list[str]:
    """The jobs whose name begins as typed: of the cluster, or of this machine."""
    names: Sequence[str] = ()
    with suppress(Exception):  # a completion that fails offers nothing
        names = _names(context)
    return [name for name in names if name.startswith(incomplete)]


def _names(context: typer.Context) -> list[str]:
    from florencectl.cluster.connection import Place, is_configured, on_cluster

    given = context.params
    place = Place(given.get("kubeconfig"), given.get("context"), given.get("namespace"))
    if given.get("local") or not is_configured(place):
        from florencectl.local_jobs import names_of_jobs

        return names_of_jobs(place.namespace or "default")
    from florencectl.cluster.jobs import list_jobs

    jobs = on_cluster(
        place, lambda client, namespace: list_jobs(client, namespace), within=LONGEST_WAIT
    )
    return [job["metadata"]["name"] for job in jobs]


def kubectl_complete() -> None:
    """The console script ``kubectl_complete-florence``: how ``kubectl florence …`` may go on.

    kubectl passes the words after ``florence``, the last of which is being typed, and reads one
    suggestion a line and then a directive.
    """
    from florencectl.main import main

    words = ["florencectl", *(sys.argv[1:] or [""])]
    os.environ |= {
        "_FLORENCECTL_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(words),
        "COMP_CWORD": str(len(words) - 1),
    }
    offered = io.StringIO()
    with redirect_stdout(offered), suppress(SystemExit):
        main()
    lines = offered.getvalue().split()
    print(*lines, f":{NO_FILES if lines else FILES_TOO}", sep="\n")
