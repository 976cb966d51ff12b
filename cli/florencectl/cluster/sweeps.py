"""Many jobs at once on a cluster: create them, and wait until all have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from florence.errors import FlorenceError
from florence_operator.api import FlorenceJob
from florence_operator.api.manifest import from_store
from florence_operator.api.stage import SWEEP_LABEL
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.errors import FAILED
from florencectl.cluster.following import wait_for
from florencectl.cluster.jobs import RESOURCE_NAME, create_job, list_jobs
from florencectl.output import note
from florencectl.program import program_name

if TYPE_CHECKING:
    from florence_operator.kube.client import Client


def create_and_wait(
    place: Place, jobs: Sequence[FlorenceJob], *, wait: bool
) -> tuple[int, list[FlorenceJob]]:
    """Create the jobs that are not there yet, and with ``wait`` wait until all have ended.

    Returns:
        1 if one failed, else 0; the jobs as they are then.

    Raises:
        FlorenceError: a job of such a name is there and is another one.
    """
    sweep = jobs[0].metadata.labels[SWEEP_LABEL]

    async def there(client: Client, namespace: str) -> dict[str, FlorenceJob]:
        found = await list_jobs(client, namespace, f"{SWEEP_LABEL}={sweep}")
        return {document["metadata"]["name"]: from_store(document) for document in found}

    async def create(client: Client, namespace: str) -> None:
        known = await there(client, namespace)
        for job in jobs:
            name = job.metadata.name
            if name not in known:
                await create_job(client, namespace, job.manifest())
                print(f"{RESOURCE_NAME}/{name} created", flush=True)
            elif known[name].spec != job.spec:
                raise FlorenceError(
                    f"job '{name}' is there with other settings: delete the sweep "
                    f"({program_name()} delete -l {SWEEP_LABEL}={sweep}), or give this one "
                    "another name"
                )

    on_cluster(place, create)
    if not wait:
        note(f"how they go: {program_name()} get -l {SWEEP_LABEL}={sweep} -w")
        return 0, []
    codes = [wait_for(place, job.metadata.name, "finished", None, show=False) for job in jobs]
    ended = on_cluster(place, there)
    failed = any(codes) or any(
        job.status is None or job.status.phase.value != "Succeeded" for job in ended.values()
    )
    return (FAILED if failed else 0), [ended[job.metadata.name] for job in jobs]
