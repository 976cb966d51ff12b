"""``florencectl wait``, ``suspend``, ``resume`` and ``retry``: steer a job on a cluster."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, on_cluster
from florencectl.options import Context, JobName, Kubeconfig, Namespace


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
    raise typer.Exit(wait_for(place, name, goal.value, limit, show=True))


def suspend(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Checkpoint a job and free its pods; 'resume' goes on from there."""
    _set_suspended(Place(kubeconfig, context, namespace), name, True)


def resume(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Go on with a suspended job from its checkpoint."""
    _set_suspended(Place(kubeconfig, context, namespace), name, False)


def retry(
    name: JobName,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run the failed stages of a failed job again, with fresh budgets."""
    from florencectl.cluster import jobs

    place = Place(kubeconfig, context, namespace)
    on_cluster(place, lambda client, where: jobs.retry(client, where, name))
    print(f"{jobs.RESOURCE_NAME}/{name} retried")


def _set_suspended(place: Place, name: str, wanted: bool) -> None:
    from florencectl.cluster import jobs

    done = on_cluster(place, lambda client, where: jobs.set_suspended(client, where, name, wanted))
    print(f"{jobs.RESOURCE_NAME}/{name} {done}")
