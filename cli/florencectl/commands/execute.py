"""``florencectl exec``: a program in the pod of a rank, run by kubectl."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.errors import NotFoundError
from florencectl.completing import stages_of_job
from florencectl.options import Context, JobName, Kubeconfig, Namespace
from florencectl.program import program_name

if TYPE_CHECKING:
    from florence_operator.api.attempt_pods import Pod
    from florence_operator.kube.client import Client

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command("exec")
def execute(
    name: JobName,
    command: Annotated[
        list[str] | None,
        typer.Argument(help="Program and its arguments, after --; default: a shell."),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(help="Stage; default: the last one begun.", autocompletion=stages_of_job),
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="Rank whose pod is meant.")] = 0,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Run a program in the pod of a job's rank, by kubectl and with the rights that you have."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise ConfigurationError("exec needs kubectl, which is not on the PATH: install it")
    place = Place(kubeconfig, context, namespace)

    async def pod_of(client: Client, where: str) -> tuple[str, Pod]:
        return where, await running_pod(client, where, name, stage, rank)

    where, pod = on_cluster(place, pod_of)
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    line = kubectl_line(place, where, pod, command or ["bash"], terminal=terminal)
    raise typer.Exit(subprocess.run([kubectl, *line], check=False).returncode)


def kubectl_line(
    place: Place, namespace: str, pod: Pod, command: Sequence[str], *, terminal: bool
) -> list[str]:
    """The arguments of kubectl, for the cluster that the user means."""
    return [
        "exec",
        *(["--kubeconfig", place.kubeconfig] if place.kubeconfig else []),
        *(["--context", place.context] if place.context else []),
        "--namespace",
        namespace,
        "--stdin",
        *(["--tty"] if terminal else []),
        "--container",
        pod.container,
        pod.name,
        "--",
        *command,
    ]


async def running_pod(
    client: Client, namespace: str, name: str, stage: str | None, rank: int
) -> Pod:
    """The pod that runs a rank of the stage's newest attempt.

    Raises:
        NotFoundError: no pod runs it, or the stage has no such rank.
    """
    from florencectl.choosing import stage_and_attempt
    from florencectl.cluster.jobs import status_of
    from florencectl.cluster.log_streams import worker_of
    from florencectl.explain.snapshot import take_snapshot

    facts = await take_snapshot(client, namespace, name, nodes=False)
    chosen, attempt = stage_and_attempt(name, status_of(facts.job), stage, None)
    index = worker_of(facts.job, chosen, rank)
    for pod in facts.pods_of(chosen, attempt):
        if pod.index == index and pod.phase == "Running" and not pod.deleting:
            return pod
    raise NotFoundError(
        f"no pod runs rank {rank} of stage '{chosen}' (attempt {attempt}): "
        f"'{program_name()} why {name}' tells why"
    )
