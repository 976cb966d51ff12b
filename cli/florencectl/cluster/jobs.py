"""FlorenceJobs on a cluster: read, create, change, delete; and how a list shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from florence.config.base import first_problem
from florence.errors import ConfigurationError, FlorenceError
from florence_operator.api import JobStatus, State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER
from florencectl.cluster.admitting import once_admitted
from florencectl.cluster.connection import MANAGER
from florencectl.cluster.errors import NotFoundError, lacks_kind
from florencectl.program import program_name
from florencectl.run_display import duration

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = dict[str, Any]

COLUMNS = ["name", "state", "stage", "progress", "eta", "loss", "attempts", "age"]
WIDE_COLUMNS = ["gpus", "gpu-hours", "goodput", "checkpoint"]
RESOURCE_NAME = "florencejob.florence.dev"
_TRIES = 5


async def get_job(client: Client, namespace: str, name: str) -> Document:
    """One job.

    Raises:
        NotFoundError: there is none; the message lists those that there are.
    """
    from florence_operator.kube.client import FLORENCE_JOBS, ApiError

    try:
        return await client.get(FLORENCE_JOBS, name, namespace)
    except ApiError as error:
        if not error.not_found or lacks_kind(error):
            raise
    raise await not_found(client, namespace, name)


async def not_found(client: Client, namespace: str, name: str) -> NotFoundError:
    """What to say of a job that is not there."""
    from florence_operator.kube.client import ApiError

    try:
        jobs = await list_jobs(client, namespace)
    except ApiError:
        return NotFoundError(f"job '{name}' was not found in namespace '{namespace}'")
    known = ", ".join(job["metadata"]["name"] for job in jobs[:20]) or "no jobs"
    return NotFoundError(f"job '{name}' was not found in namespace '{namespace}'; there: {known}")


async def list_jobs(client: Client, namespace: str | None, labels: str = "") -> list[Document]:
    """The jobs of a namespace, or of all of them, by namespace and name."""
    from florence_operator.kube.client import FLORENCE_JOBS

    jobs, _ = await client.list(FLORENCE_JOBS, namespace, labels=labels)
    return sorted(jobs, key=lambda job: (job["metadata"]["namespace"], job["metadata"]["name"]))


async def create_job(
    client: Client, namespace: str, document: Document, *, dry_run: bool = False
) -> Document:
    """Create a job in a namespace and return what the server made of it.

    Raises:
        ConfigurationError: the document names another namespace, or the job exists.
    """
    from florence_operator.kube.client import ApiError

    metadata = {"namespace": namespace, **document["metadata"]}
    wanted = {**document, "metadata": metadata}
    try:
        return await once_admitted(lambda: client.create(wanted, manager=MANAGER, dry_run=dry_run))
    except ApiError as error:
        if not error.already_exists:
            raise
    name = metadata["name"]
    raise FlorenceError(
        f"job '{name}' exists already in namespace '{namespace}': choose another name, delete it "
        f"first ({program_name()} delete {name}), or change it with 'kubectl apply'"
    )


async def set_suspended(client: Client, namespace: str, name: str, suspend: bool) -> str:
    """Ask for a pause or its end; say what came of it.

    Raises:
        FlorenceError: the job is over.
    """
    job = await get_job(client, namespace, name)
    state = status_of(job).phase
    if state.terminal:
        raise FlorenceError(f"job '{name}' is over ({state.value}): it cannot be {_done(suspend)}")
    if bool(_policy(job).get("suspend")) is suspend:
        return f"{_done(suspend)} already"
    await _patch(client, namespace, name, {"runPolicy": {"suspend": suspend}})
    return _done(suspend)


async def retry(client: Client, namespace: str, name: str) -> None:
    """Run the failed stages of a failed job again.

    Raises:
        FlorenceError: the job has not failed.
    """
    job = await get_job(client, namespace, name)
    status = status_of(job)
    if status.phase is not State.FAILED:
        raise FlorenceError(
            f"job '{name}' is {status.phase.value}: only a failed job can be retried"
        )
    request = max(int(_policy(job).get("retry") or 0), status.retry) + 1
    await _patch(client, namespace, name, {"runPolicy": {"retry": request}})


async def delete_job(
    client: Client, namespace: str, name: str, *, artifacts: bool = False
) -> Document:
    """Delete a job, with what it stored if asked to, and return it as it was.

    Raises:
        NotFoundError: there is none.
    """
    from florence_operator.kube.client import FLORENCE_JOBS, ApiError

    job = await get_job(client, namespace, name)
    if artifacts:
        job = await _hold_for_artifacts(client, job)
    try:
        await client.delete(FLORENCE_JOBS, name, namespace, uid=job["metadata"].get("uid"))
    except ApiError as error:
        if not error.not_found:
            raise
    return job


async def _hold_for_artifacts(client: Client, job: Document) -> Document:
    """The job, which asks for the removal of its artifacts and stays until they are removed.

    The operator would set the finalizer as well, but only after it has seen the wish; a job that is
    deleted before that is gone, and nobody removes anything.
    """
    from florence_operator.kube.client import FLORENCE_JOBS, ApiError

    name, namespace = job["metadata"]["name"], job["metadata"]["namespace"]
    for _ in range(_TRIES):
        metadata = job["metadata"]
        finalizers = list(metadata.get("finalizers") or ())
        if ARTIFACTS_FINALIZER not in finalizers:
            if "deletionTimestamp" in metadata:
                raise FlorenceError(
                    f"job '{name}' is being deleted already, without its artifacts: its artifacts "
                    "stay, and are to be deleted where they are stored"
                )
            finalizers.append(ARTIFACTS_FINALIZER)
        # A list is replaced as a whole: the version keeps others' finalizers from being lost.
        held = {"finalizers": finalizers, "resourceVersion": metadata["resourceVersion"]}
        body = {"metadata": held, "spec": {"artifacts": {"deleteWithJob": True}}}
        try:
            return await once_admitted(
                partial(client.patch, FLORENCE_JOBS, name, namespace, body, manager=MANAGER)
            )
        except ApiError as error:
            if not error.conflict:
                raise
        job = await get_job(client, namespace, name)
    raise FlorenceError(f"job '{name}' is changed by somebody else all the time: try again")


def status_of(job: Mapping[str, Any]) -> JobStatus:
    """What the operator wrote about a job; a fresh status when it has not yet.

    Raises:
        ConfigurationError: the operator is of a version that this program does not know.
    """
    try:
        return JobStatus.model_validate(job.get("status") or {})
    except ValidationError as error:
        raise ConfigurationError(
            f"job '{job['metadata']['name']}': status.{first_problem(error)}: the operator is of "
            "another version than this program: install the same version of both"
        ) from None


def row(job: Mapping[str, Any], now: datetime) -> Document:
    """A job's columns, as ``kubectl get`` shows them."""
    metadata, status = job["metadata"], job.get("status") or {}
    summary = status.get("summary") or {}
    created = metadata.get("creationTimestamp")
    return {
        "namespace": metadata.get("namespace"),
        "name": metadata["name"],
        "state": "Deleting"
        if "deletionTimestamp" in metadata
        else status.get("phase") or State.PENDING.value,
        "stage": summary.get("stage"),
        "progress": summary.get("progress"),
        "eta": summary.get("eta"),
        "loss": summary.get("loss"),
        "attempts": summary.get("attempts"),
        "age": age(created, now),
        "gpus": summary.get("gpus"),
        "gpu-hours": summary.get("gpuHours"),
        "goodput": summary.get("goodput"),
        "checkpoint": summary.get("checkpoint"),
    }


def age(timestamp: str | None, now: datetime) -> str | None:
    """How long ago that was: ``3m05s``."""
    if not timestamp:
        return None
    return duration((now - datetime.fromisoformat(timestamp)).total_seconds())


def columns(*, wide: bool, namespaces: bool) -> list[str]:
    """The columns of a list."""
    return [*(["namespace"] if namespaces else []), *COLUMNS, *(WIDE_COLUMNS if wide else [])]


def cells(job: Mapping[str, Any], shown: Sequence[str]) -> list[Any]:
    """The values of a job in the columns that are shown, as of now."""
    values = row(job, datetime.now(UTC))
    return [values[column] for column in shown]


def without_noise(job: Document) -> Document:
    """The object for people: without the bookkeeping of who wrote which field."""
    metadata = {k: v for k, v in job["metadata"].items() if k != "managedFields"}
    return {**job, "metadata": metadata}


def _policy(job: Mapping[str, Any]) -> Mapping[str, Any]:
    return (job.get("spec") or {}).get("runPolicy") or {}


def _done(suspend: bool) -> str:
    return "suspended" if suspend else "resumed"


async def _patch(client: Client, namespace: str, name: str, spec: Document) -> None:
    from florence_operator.kube.client import FLORENCE_JOBS

    await once_admitted(
        lambda: client.patch(FLORENCE_JOBS, name, namespace, {"spec": spec}, manager=MANAGER)
    )
