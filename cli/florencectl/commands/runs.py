"""``florencectl get``, ``logs`` and ``delete``: jobs on a cluster, or on this machine."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.choosing import is_local, refuse_names_everywhere, refuse_on_machine
from florencectl.cluster.connection import Place
from florencectl.completing import stages_of_job
from florencectl.options import (
    AllNamespaces,
    Context,
    Endpoint,
    JobName,
    JobNames,
    Kubeconfig,
    Local,
    Namespace,
    Output,
    Selector,
)
from florencectl.output import Format, note


def get(
    names: JobNames = None,
    namespace: Namespace = None,
    all_namespaces: AllNamespaces = False,
    selector: Selector = "",
    output: Output = Format.TABLE,
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Go on with every change.")] = False,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs, or show some."""
    place = Place(kubeconfig, context, namespace)
    refuse_names_everywhere(names, all_namespaces)
    if is_local(local, place):
        from florencectl.local_jobs import show_jobs, watch_jobs

        refuse_on_machine({"--selector": bool(selector)})
        where = None if all_namespaces else namespace or "default"
        (watch_jobs if watch else show_jobs)(names or (), where, output)
        return
    if names and selector:
        raise ConfigurationError("give names or a selector (-l), not both")
    from florencectl.cluster.listing import show_jobs as show_cluster_jobs

    show_cluster_jobs(
        place, names or (), output, labels=selector, everywhere=all_namespaces, watch=watch
    )


def logs(
    name: JobName,
    stage: Annotated[
        str | None,
        typer.Option(help="Stage; default: the last one begun.", autocompletion=stages_of_job),
    ] = None,
    attempt: Annotated[int | None, typer.Option(min=1, help="Attempt; default: the last.")] = None,
    rank: Annotated[
        int | None,
        typer.Option(min=0, help="Lines of this rank only; default: all of worker 0's pod."),
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until it ends, through retries.")
    ] = False,
    tail: Annotated[
        int | None, typer.Option("--tail", min=0, help="The last lines only.", metavar="N")
    ] = None,
    endpoint: Endpoint = None,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the log of a job's stage: from its pod, or from its artifacts once that is gone."""
    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        from florencectl.local_logs import print_log

        print_log(
            name,
            namespace or "default",
            stage=stage,
            attempt=attempt,
            rank=rank,
            follow=follow,
            tail=tail,
        )
        return
    from florencectl.cluster.log_streams import Wanted, print_logs

    wanted = Wanted(stage=stage, attempt=attempt, rank=rank, follow=follow, tail=tail)
    print_logs(place, name, wanted, endpoint)


def delete(
    names: JobNames = None,
    selector: Selector = "",
    everything: Annotated[bool, typer.Option("--all", help="All jobs of the namespace.")] = False,
    artifacts: Annotated[
        bool,
        typer.Option("--artifacts", help="Delete checkpoints, models and results as well."),
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the jobs and their pods are gone.")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete jobs; their artifacts stay unless asked for."""
    place = Place(kubeconfig, context, namespace)
    if sum([bool(names), bool(selector), everything]) != 1:
        raise ConfigurationError("say which jobs: names, a selector (-l), or --all")
    if is_local(local, place):
        from florencectl.local_jobs import delete_jobs, names_of_jobs

        refuse_on_machine({"--selector": bool(selector)})
        where = namespace or "default"
        chosen = names or names_of_jobs(where)
        if not names:
            _ask(chosen, "this machine", yes)
        delete_jobs(chosen, where, artifacts=artifacts)
        return
    from florencectl.cluster.deletion import chosen_jobs
    from florencectl.cluster.deletion import delete_jobs as delete_cluster_jobs

    chosen = names or chosen_jobs(place, selector)
    if not names:
        _ask(chosen, "the cluster", yes)
    delete_cluster_jobs(place, chosen, artifacts=artifacts, wait=wait)


def _ask(names: list[str], where: str, yes: bool) -> None:
    if yes or not names:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"this deletes {len(names)} jobs: confirm it with --yes")
    note(f"jobs of {where}: {', '.join(names)}")
    typer.confirm(f"Delete these {len(names)} jobs?", abort=True, err=True)
