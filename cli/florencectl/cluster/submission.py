"""Create a job on a cluster, and stay with it when asked to."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.following import follow
from florencectl.cluster.jobs import RESOURCE_NAME, create_job, status_of, without_noise
from florencectl.output import Format, note, print_document, print_table
from florencectl.program import program_name
from florencectl.run_display import shown

if TYPE_CHECKING:
    from florence_operator.api import FlorenceJob
    from florence_operator.kube.client import Client


def submit_job(
    place: Place, job: FlorenceJob, output: Format, *, server_dry_run: bool, wait: bool
) -> int:
    """Create the job, print it, and with ``wait`` show it to its end; the exit code."""
    own = job.metadata.namespace
    if own and place.namespace and own != place.namespace:
        raise ConfigurationError(
            f"the job says namespace '{own}' and --namespace '{place.namespace}': leave out one"
        )

    async def submit(client: Client, namespace: str) -> int:
        where = own or namespace
        created = await create_job(client, where, job.manifest(), dry_run=server_dry_run)
        name = job.metadata.name
        if not wait or server_dry_run:
            print_created(
                created, output, "created (server dry run)" if server_dry_run else "created"
            )
            if not server_dry_run:
                _say_how_to_go_on(name, where, place)
            return 0
        note(f"{RESOURCE_NAME}/{name} created in namespace '{where}'; Ctrl-C leaves it running")
        code, ended = await follow(client, where, name)
        print_ended(ended, output)
        return code

    return on_cluster(place, submit)


def print_created(job: Mapping[str, Any], output: Format, what: str) -> None:
    """Say that a job was created, or print it."""
    name = f"{RESOURCE_NAME}/{job['metadata']['name']}"
    if output in (Format.JSON, Format.YAML):
        print_document(without_noise(dict(job)), output)
    else:
        print(name if output is Format.NAME else f"{name} {what}")
    sys.stdout.flush()


def print_ended(job: Mapping[str, Any], output: Format) -> None:
    """Print the results of a job that ended, or the job."""
    if output in (Format.JSON, Format.YAML, Format.NAME):
        print_created(job, output, "ended")
        return
    status = status_of(job)
    results = [
        (stage.name, result, shown(result, value))
        for stage in status.stages
        for result, value in stage.metrics.items()
    ]
    if results:
        print_table(["stage", "result", "value"], results)
        sys.stdout.flush()
    model = next((stage.model for stage in reversed(status.stages) if stage.model), None)
    if model:
        note(f"\nmodel: {model}")


def _say_how_to_go_on(name: str, namespace: str, place: Place) -> None:
    options = f" -n {namespace}" if place.namespace else ""
    options += f" --context {place.context}" if place.context else ""
    program = program_name()
    note(f"how it goes: {program} get {name} -w{options}")
    note(f"its log:     {program} logs {name} -f{options}")
    note(f"why it waits or failed: {program} why {name}{options}")
