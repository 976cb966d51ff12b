"""``florencectl wait``, ``stop``, ``suspend``, ``resume`` and ``retry``: steer a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.choosing import is_local, refuse_on_cluster
from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import (
    Context,
    Detach,
    JobName,
    Kubeconfig,
    Local,
    Namespace,
    Processes,
)


class Goal(StrEnum):
    """The value of ``--for``."""

    SUCCEEDED = "succeeded"
    FINISHED = "finished"
    RUNNING = "running"
    SUSPENDED = "suspended"


def wait(
    name: JobName,
    goal: Annotated[Goal, typer.Option("--for", help="What to wait for.")] = Goal.SUCCEEDED,
    timeout: Annotated[
        str | None, typer.Option(help="At most this long, such as 10m; default: for ever.")
    ] = None,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait for a job. Exit code 1: it failed, or is over; 5: it took longer than --timeout."""
    from florence_operator.api.duration import seconds
    from florencectl.cluster.following import wait_for

    try:
        limit = float(seconds(timeout)) if timeout is not None else None
    except ValueError as error:
        raise ConfigurationError(f"--timeout: {error}") from None
    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        from florencectl.local_control import wait_for_job

        raise typer.Exit(wait_for_job(name, namespace or "default", goal.value, limit))
    raise typer.Exit(wait_for(place, name, goal.value, limit, show=True))


def suspend(
    name: JobName,
    namespace: Namespace = None,
    local: Local = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Checkpoint a job, and free its pods or end its processes; 'resume' goes on from there.

    'stop' and 'suspend' are the same: the word that people look for, and Kubernetes' own.
    """
    place = Place(kubeconfig, context, namespace)
    if not is_local(local, place):
        _set_suspended(place, name, True)
        return
    from florencectl.local_control import stop_job

    print(f"florencejob/{name} {stop_job(name, place.namespace or 'default')}")


stop = suspend


def resume(
    name: JobName,
    namespace: Namespace = None,
    local: Local = False,
    processes: Processes = None,
    detach: Detach = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Go on with a suspended job from its checkpoint; on this machine also with one that failed."""
    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        _run_here(place, name, processes, detach)
    refuse_on_cluster({"--processes": processes, "--detach": detach})
    _set_suspended(place, name, False)


def retry(
    name: JobName,
    namespace: Namespace = None,
    local: Local = False,
    processes: Processes = None,
    detach: Detach = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run the failed stages of a failed job again, with fresh budgets."""
    place = Place(kubeconfig, context, namespace)
    if is_local(local, place):
        _run_here(place, name, processes, detach, failed_only=True)
    refuse_on_cluster({"--processes": processes, "--detach": detach})
    from florencectl.cluster import jobs

    on_cluster(place, lambda client, where: jobs.retry(client, where, name))
    print(f"{jobs.RESOURCE_NAME}/{name} retried")


def _run_here(
    place: Place, name: str, processes: int | None, detach: bool, *, failed_only: bool = False
) -> None:
    from florencectl.local_control import resume_job

    where = place.namespace or "default"
    raise typer.Exit(
        resume_job(name, where, processes=processes, detach=detach, failed_only=failed_only)
    )


def _set_suspended(place: Place, name: str, wanted: bool) -> None:
    from florencectl.cluster import jobs

    done = on_cluster(place, lambda client, where: jobs.set_suspended(client, where, name, wanted))
    print(f"{jobs.RESOURCE_NAME}/{name} {done}")
