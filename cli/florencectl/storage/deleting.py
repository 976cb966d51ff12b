"""Which jobs exist, and the deletion of what none of them needs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.jobs import list_jobs
from florencectl.storage.garbage import Jobs, Part
from florencectl.storage.layout import job_folder

Document = dict[str, Any]

if TYPE_CHECKING:
    from florence.storage import Storage
    from florence_operator.kube.client import Client


def existing_jobs(place: Place, namespace: str | None, named: Sequence[str], cluster: bool) -> Jobs:
    """The jobs of a cluster, if there is one, and those that were named.

    Another cluster may use the bucket too: what is of a namespace that this one lacks is kept,
    unless that namespace was asked for.

    Args:
        namespace: only the jobs of this one; others have no rights in its folders. None: all jobs,
            and the namespaces that there are.
        cluster: whether there is a cluster to ask.

    Raises:
        ConfigurationError: a name is not one of a job.
    """

    async def listed(client: Client, _: str) -> tuple[list[Document], frozenset[str] | None]:
        from florence_operator.kube.client import NAMESPACES

        jobs = await list_jobs(client, namespace)
        if namespace:
            return jobs, None
        found, _version = await client.list(NAMESPACES)
        return jobs, frozenset(each["metadata"]["name"] for each in found)

    if not cluster:
        return jobs_of((), named)
    documents, namespaces = on_cluster(place, listed)
    return replace(jobs_of(documents, named), namespaces=namespaces)


def jobs_of(documents: Iterable[Mapping[str, Any]], named: Iterable[str]) -> Jobs:
    """The jobs by their folders, by the names that were given, and what they say.

    Raises:
        ConfigurationError: a name is not one of a job.
    """
    folders, names, texts = set(), set(), []
    for document in documents:
        metadata = document["metadata"]
        folders.add(f"{metadata['namespace']}/{metadata['name']}-{metadata['uid'][:8]}")
        texts.append(json.dumps([document.get("spec"), document.get("status")]))
    for each in named:
        where, slash, name = each.partition("/")
        if not (where and slash and name) or "/" in name:
            raise ConfigurationError(f"--job {each}: write NAMESPACE/NAME or NAMESPACE/NAME-UID8")
        names.add(each)
        if job_folder(where, name):
            folders.add(each)
    return Jobs(frozenset(folders), frozenset(names), texts)


def delete(storage: Storage, part: Part) -> None:
    """Delete what was found, commits first.

    Raises:
        ConfigurationError, TransientError: the storage's; what is left is found again.
    """
    for entry in part.entries:
        storage.delete(entry.key)
