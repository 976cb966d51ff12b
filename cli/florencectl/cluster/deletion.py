"""Delete jobs of a cluster, and wait until nothing of them is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.jobs import RESOURCE_NAME, delete_job, list_jobs
from florencectl.output import note

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

_PAUSE = 0.5


def chosen_jobs(place: Place, labels: str) -> list[str]:
    """The names of a namespace's jobs that the labels select."""

    async def listed(client: Client, namespace: str) -> list[str]:
        return [job["metadata"]["name"] for job in await list_jobs(client, namespace, labels)]

    return on_cluster(place, listed)


def delete_jobs(place: Place, names: Sequence[str], *, artifacts: bool, wait: bool) -> None:
    """Delete the jobs; with ``wait`` until they and their pods are gone."""

    async def delete(client: Client, namespace: str) -> None:
        if not names:
            note(f"no jobs in namespace '{namespace}'")
        deleted = []
        for name in names:
            deleted.append(await delete_job(client, namespace, name, artifacts=artifacts))
            print(f'{RESOURCE_NAME} "{name}" deleted', flush=True)
        if wait:
            for job in deleted:
                await _gone(client, namespace, job["metadata"]["name"], job["metadata"]["uid"])

    on_cluster(place, delete)


async def _gone(client: Client, namespace: str, name: str, uid: str) -> None:
    """Wait until the job is gone, and its pods with it."""
    from florence_operator.api.labels import JOB_LABEL
    from florence_operator.kube.client import FLORENCE_JOBS, PODS, ApiError

    while True:
        try:
            job = await client.get(FLORENCE_JOBS, name, namespace)
            if job["metadata"].get("uid") != uid:
                return  # a new one of the same name
        except ApiError as error:
            if not error.not_found:
                raise
            pods, _ = await client.list(PODS, namespace, labels=f"{JOB_LABEL}={name}")
            if not pods:
                return
        await asyncio.sleep(_PAUSE)
