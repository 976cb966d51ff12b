"""Everything about one job that a cluster's answers are drawn from, fetched at one moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florence_operator.api.attempt_pods import Pod, pod_from
from florence_operator.api.child_kinds import CHILD_KINDS
from florence_operator.api.labels import JOB_LABEL
from florence_operator.api.status import Attempt
from florence_operator.api.times import unix
from florencectl.cluster.jobs import get_job, status_of
from florencectl.cluster.node_fit import whole

if TYPE_CHECKING:
    from florence_operator.kube.client import Client, Resource

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that a component of the cluster told about an object."""

    about: str
    """Kind and name of the object, as ``Pod/x``."""
    kind: str
    """Normal or Warning."""
    reason: str
    message: str
    count: int
    last: float
    """When it was last seen (Unix seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is known of a job; None where the user may not look, or the kind is not installed."""

    job: Document
    now: float
    pods: Sequence[Document] = ()
    events: Sequence[Event] = ()
    workloads: Sequence[Document] | None = None
    queues: Sequence[Document] | None = None
    nodes: Sequence[Document] | None = None
    all_pods: Sequence[Document] | None = None

    @property
    def name(self) -> str:
        """The job's name."""
        return str(self.job["metadata"]["name"])

    @property
    def spec(self) -> Document:
        """What the job asks for, as it was written."""
        return self.job.get("spec") or {}

    @property
    def policy(self) -> Document:
        """The job's run policy, as it was written."""
        return self.spec.get("runPolicy") or {}

    def stage_spec(self, name: str) -> Document:
        """What a stage asks for, as it was written."""
        return next((s for s in self.spec.get("stages") or () if s.get("name") == name), {})

    def workers(self, stage: str) -> int:
        """The pods that a stage asks for."""
        return whole((self.stage_spec(stage).get("resources") or {}).get("workers", 1))

    def gpus(self, stage: str) -> int:
        """The GPUs that each of a stage's pods asks for."""
        return whole((self.stage_spec(stage).get("resources") or {}).get("gpusPerWorker"))

    def pods_of(self, stage: str, attempt: int) -> list[Pod]:
        """The pods of an attempt, by worker."""
        found = [pod for pod in map(pod_from, self.pods) if pod is not None]
        mine = [pod for pod in found if (pod.stage, pod.attempt) == (stage, attempt)]
        return sorted(mine, key=lambda pod: pod.index)

    def workload_of(self, child: str | None) -> Document | None:
        """Kueue's Workload of a child."""
        for workload in self.workloads or ():
            owners = workload["metadata"].get("ownerReferences") or ()
            if any(owner.get("name") == child for owner in owners):
                return workload
        return None

    def events_about_child(self, attempt: Attempt) -> list[Event]:
        """The events of an attempt's child, and of what is made of it on the way to its pods."""
        about = _told_of(attempt)
        return [event for event in self.events if event.about in about]

    def events_about(self, kind: str, name: str | None) -> list[Event]:
        """The events of one object, oldest first."""
        return [event for event in self.events if event.about == f"{kind}/{name}"]


async def take_snapshot(
    client: Client,
    namespace: str,
    name: str,
    *,
    nodes: bool = True,
    clock: Callable[[], float] = time.time,
) -> Snapshot:
    """Fetch what is known of a job. Raises :class:`NotFoundError`."""
    from florence_operator.kube.client import LOCAL_QUEUES, NODES, PODS, WORKLOADS

    job = await get_job(client, namespace, name)
    queued = bool(Snapshot(job=job, now=0.0).policy.get("queue"))

    async def nothing() -> None:
        return None

    pods, events, workloads, queues, all_nodes, all_pods = await asyncio.gather(
        _optional(client, PODS, namespace, labels=f"{JOB_LABEL}={name}"),
        events_of(client, namespace),
        _of_kueue(client, WORKLOADS, namespace) if queued else nothing(),
        _of_kueue(client, LOCAL_QUEUES, namespace) if queued else nothing(),
        _optional(client, NODES, None) if nodes else nothing(),
        _optional(client, PODS, None) if nodes else nothing(),
    )
    return Snapshot(
        job=job,
        now=clock(),
        pods=pods or (),
        events=_about_job(events, name, pods or (), job),
        workloads=workloads,
        queues=queues,
        nodes=all_nodes,
        all_pods=all_pods,
    )


async def events_of(client: Client, namespace: str) -> list[Event]:
    """The events of a namespace, oldest first; none where they may not be read."""
    from florence_operator.kube.resources import CORE_EVENTS

    found = await _optional(client, CORE_EVENTS, namespace)
    return sorted(map(event_from, found or ()), key=lambda event: event.last)


def event_from(document: Document) -> Event:
    """The event in an object of the core group."""
    series = document.get("series") or {}
    about = document.get("involvedObject") or {}
    moments = (
        series.get("lastObservedTime"),
        document.get("lastTimestamp"),
        document.get("eventTime"),
        document.get("firstTimestamp"),
        document["metadata"].get("creationTimestamp"),
    )
    return Event(
        about=f"{about.get('kind')}/{about.get('name')}",
        kind=document.get("type") or "Normal",
        reason=document.get("reason") or "",
        message=(document.get("message") or "").strip(),
        count=series.get("count") or document.get("count") or 1,
        last=unix(next(filter(None, moments), None)) or 0.0,
    )


def _about_job(
    events: Sequence[Event], name: str, pods: Sequence[Document], job: Document
) -> list[Event]:
    """The events of the job, its children and its pods."""
    attempts = [a for stage in status_of(job).stages for a in stage.attempts]
    wanted = {
        f"FlorenceJob/{name}",
        *(about for attempt in attempts for about in _told_of(attempt)),
        *(f"Pod/{pod['metadata']['name']}" for pod in pods),
    }
    return [event for event in events if event.about in wanted]


def _told_of(attempt: Attempt) -> tuple[str, ...]:
    child = attempt.job_ref
    kind = CHILD_KINDS.get(child.kind) if child is not None else None
    if child is None or kind is None:
        return ()
    return kind.told_of(child.name)


async def _of_kueue(
    client: Client, resource: Resource, namespace: str
) -> list[dict[str, Any]] | None:
    """A list of one of Kueue's kinds, in the version that the cluster's Kueue serves."""
    from florence_operator.kube.discovery import served
    from florence_operator.kube.resources import KUEUE_VERSIONS

    found = await served(client, resource, KUEUE_VERSIONS)
    return await _optional(client, found, namespace) if found else None


async def _optional(
    client: Client, resource: Resource, namespace: str | None, *, labels: str = ""
) -> list[dict[str, Any]] | None:
    """A list, or None where the user may not read it or the cluster has no such kind."""
    from florence_operator.kube.client import ApiError

    try:
        return (await client.list(resource, namespace, labels=labels))[0]
    except ApiError as error:
        if error.forbidden or error.not_found:
            return None
        raise
