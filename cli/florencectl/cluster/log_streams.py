"""The log of a job's attempt: from its pod while that exists, afterwards from the artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from florence.errors import FlorenceError
from florence_operator.api import State
from florence_operator.api.attempt_pods import Pod, pod_from
from florence_operator.api.labels import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL
from florencectl.choosing import of_rank, stage_and_attempt, stages_meant
from florencectl.cluster import storage_access
from florencectl.cluster.connection import Place, on_cluster
from florencectl.cluster.errors import NotFoundError
from florencectl.cluster.jobs import get_job, status_of
from florencectl.cluster.node_fit import whole
from florencectl.evidence import StageLogs
from florencectl.output import note
from florencectl.program import program_name

if TYPE_CHECKING:
    from florence_operator.kube.client import Client

Document = dict[str, Any]

PAUSE = 1.0
_STARTED = ("Running", "Succeeded", "Failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which log the user asked for."""

    stage: str | None = None
    attempt: int | None = None
    rank: int | None = None
    follow: bool = False
    tail: int | None = None


def print_logs(place: Place, name: str, wanted: Wanted, endpoint: str | None) -> None:
    """Print the log that is wanted, with ``follow`` until the job (or the attempt) has ended."""

    async def show(client: Client, namespace: str) -> None:
        reader = LogReader(client, namespace, name, wanted, endpoint, print_line)
        await (reader.follow() if wanted.follow else reader.once())

    on_cluster(place, show)


def print_line(line: str) -> None:
    """Print a line of a log, at once."""
    print(line, flush=True)


class LogReader:
    """Reads the logs of one job, attempt after attempt."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        name: str,
        wanted: Wanted,
        endpoint: str | None,
        show: Callable[[str], None],
        *,
        pause: float = PAUSE,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._wanted = wanted
        self._endpoint = endpoint
        self._show = show
        self._pause = pause
        self._told = ""

    async def once(self) -> None:
        """Print what there is of the log now.

        Raises:
            NotFoundError: there is no such log.
        """
        job = await get_job(self._client, self._namespace, self._name)
        stage, attempt = stage_and_attempt(
            self._name, status_of(job), self._wanted.stage, self._wanted.attempt
        )
        index = worker_of(job, stage, self._wanted.rank)
        pod = await self._pod(stage, attempt, index)
        if pod is None:
            await self._print_kept(job, stage, attempt, index)
        elif pod.phase not in _STARTED:
            raise NotFoundError(
                f"pod '{pod.name}' has not started{_why(pod)}: '{program_name()} why {self._name}' "
                "tells more, -f waits for it"
            )
        else:
            await self._print_pod(pod, follow=False)

    async def follow(self) -> None:
        """Print the log as it is written, through retries, until the job has ended."""
        seen: set[tuple[str, int]] = set()
        while True:
            job = await get_job(self._client, self._namespace, self._name)
            status = status_of(job)
            chosen = self._next(job, seen)
            if chosen is not None:
                stage, attempt = chosen
                if await self._follow_attempt(job, stage, attempt, fresh=not seen):
                    seen.add(chosen)
                    continue
            elif self._over(job, seen):
                return
            elif status.phase is State.SUSPENDED:
                self._tell(f"job '{self._name}' is suspended: waiting for it to go on")
            elif seen:
                self._tell("waiting for the next attempt")
            else:
                self._tell("waiting for the first attempt")
            await asyncio.sleep(self._pause)

    def _next(self, job: Document, seen: set[tuple[str, int]]) -> tuple[str, int] | None:
        """The attempt to show next: the newest that has not been shown."""
        status, wanted = status_of(job), self._wanted
        begun = [s for s in status.stages if s.attempts and wanted.stage in (None, s.name)]
        if wanted.stage and not begun and status.stages:
            stage_names = [s.name for s in status.stages]
            if wanted.stage not in stage_names:
                stage_and_attempt(self._name, status, wanted.stage, None)  # raises: no such stage
        if not begun or (wanted.attempt and seen):
            return None
        if wanted.attempt or not seen:
            return stage_and_attempt(self._name, status, wanted.stage, wanted.attempt)
        fresh = [
            (attempt.start_time or "", stage.name, attempt.number)
            for stage in begun
            for attempt in stage.attempts
            if (stage.name, attempt.number) not in seen
            and (attempt.start_time or "") >= self._since(status, seen)
        ]
        return min(fresh)[1:] if fresh else None

    def _since(self, status: Any, seen: set[tuple[str, int]]) -> str:
        """When the newest attempt that was shown started."""
        return max(
            (
                attempt.start_time or ""
                for stage in status.stages
                for attempt in stage.attempts
                if (stage.name, attempt.number) in seen
            ),
            default="",
        )

    def _over(self, job: Document, seen: set[tuple[str, int]]) -> bool:
        status, wanted = status_of(job), self._wanted
        if status.phase.terminal or (wanted.attempt is not None and bool(seen)):
            return True
        return wanted.stage is not None and status.stage(wanted.stage).state.terminal

    async def _follow_attempt(self, job: Document, stage: str, attempt: int, fresh: bool) -> bool:
        """Show one attempt to its end; False when its pod has not started yet."""
        index = worker_of(job, stage, self._wanted.rank)
        pod = await self._pod(stage, attempt, index)
        ended = any(
            a.number == attempt and a.completion_time for a in status_of(job).stage(stage).attempts
        )
        if pod is None and not ended:
            self._tell(f"{stage}, attempt {attempt}: waiting for its pods")
            return False
        if pod is not None and pod.phase not in _STARTED:
            self._tell(f"{stage}, attempt {attempt}: pod '{pod.name}' has not started{_why(pod)}")
            return ended
        if not fresh:
            self._tell(f"{stage}, attempt {attempt}")
        if pod is None:
            await self._print_kept(job, stage, attempt, index)
        else:
            await self._print_pod(pod, follow=True)
        return True

    async def _pod(self, stage: str, attempt: int, index: int) -> Pod | None:
        from florence_operator.kube.client import PODS

        labels = f"{JOB_LABEL}={self._name},{STAGE_LABEL}={stage},{ATTEMPT_LABEL}={attempt}"
        documents, _ = await self._client.list(PODS, self._namespace, labels=labels)
        pods = [pod for pod in map(pod_from, documents) if pod is not None]
        return next((pod for pod in pods if pod.index == index), None)

    async def _print_pod(self, pod: Pod, *, follow: bool) -> None:
        """Print a pod's log; after a lost connection it goes on where it stopped."""
        from florence_operator.kube.client import ApiError

        belongs = of_rank(self._wanted.rank)
        shown, skip, tail, failures = 0, 0, self._wanted.tail, 0
        while True:
            try:
                async for line in self._client.logs(
                    pod.name,
                    self._namespace,
                    container=pod.container,
                    follow=follow,
                    tail=tail,
                ):
                    failures = 0
                    if skip:
                        skip -= 1
                        continue
                    shown += 1
                    if belongs(line):
                        self._show(line)
                return
            except ApiError as error:
                if error.not_found and follow and shown:
                    return  # the pod is gone: what follows is in the job's status
                if not (follow and error.status in (0, 429, 500, 503)) or failures > 10:
                    raise
                failures += 1
                # With a tail the lines cannot be counted: the rest of it is all there is to go on.
                skip, tail = (shown, None) if self._wanted.tail is None else (0, 0)
                await asyncio.sleep(self._pause)

    async def _print_kept(self, job: Document, stage: str, attempt: int, index: int) -> None:
        """Print the end of a log that was kept in the artifacts."""
        await storage_access.prepare_credentials(self._client, job)
        kept = next(
            (a.logs for a in status_of(job).stage(stage).attempts if a.number == attempt), None
        )
        folder = (
            kept or f"{storage_access.artifacts_uri(job)}/{stage}/logs/attempt-{attempt}"
        ).rstrip("/")
        text = await asyncio.to_thread(read_kept, job, folder, index, self._endpoint)
        self._tell(f"the pod is gone: the end of its log, from {folder}")
        belongs = of_rank(self._wanted.rank)
        lines = [line for line in text.splitlines() if belongs(line)]
        tail = self._wanted.tail
        for line in lines if tail is None else lines[len(lines) - min(tail, len(lines)) :]:
            self._show(line)

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._told = message
            note(f"-- {message} --")


def read_kept(job: Document, folder: str, index: int, endpoint: str | None) -> str:
    """The kept log of a worker.

    Raises:
        NotFoundError: it is not there; the message says which are.
        FlorenceError: the storage cannot be reached.
    """
    from florence.storage import MissingKeyError

    storage = storage_access.open_job_storage(job, folder, endpoint)
    key = f"worker-{index}.log"
    try:
        return storage.read(key).decode("utf-8", errors="replace")
    except MissingKeyError:
        there = ", ".join(entry.key for entry in storage.list())
        missing = f"{storage.url(key)}: no log was kept; there: {there or 'nothing'}"
        raise NotFoundError(
            missing if there else storage_access.explained(missing, job, endpoint)
        ) from None
    except FlorenceError as error:
        raise type(error)(storage_access.explained(str(error), job, endpoint)) from None


def kept_logs(place: Place, name: str, stage: str | None, endpoint: str | None) -> list[StageLogs]:
    """What the stages of a job kept beside their logs, in its artifacts.

    Raises:
        ConfigurationError: the job has no such stage, or its storage is not reached from here.
    """

    async def prepared(client: Client, namespace: str) -> Document:
        job = await get_job(client, namespace, name)
        await storage_access.prepare_credentials(client, job)
        return job

    job = on_cluster(place, prepared)
    stages = [str(each["name"]) for each in job["spec"]["stages"]]
    uri = storage_access.artifacts_uri(job)
    found = []
    for each in stages_meant(name, stages, stage):
        storage = storage_access.open_job_storage(job, f"{uri}/{each}", endpoint)
        try:
            found.append(StageLogs(each, storage, storage.list("logs/")))
        except FlorenceError as error:
            raise type(error)(storage_access.explained(str(error), job, endpoint)) from None
    return found


def worker_of(job: Mapping[str, Any], stage: str, rank: int | None) -> int:
    """The worker whose pod a rank is in; 0 when none is asked for.

    Raises:
        NotFoundError: the stage has fewer ranks.
    """
    if rank is None:
        return 0
    stages = (job.get("spec") or {}).get("stages") or ()
    spec: Mapping[str, Any] = next((s for s in stages if s.get("name") == stage), {})
    resources = spec.get("resources") or {}
    each = max(1, whole(resources.get("gpusPerWorker")))
    ranks = each * max(1, whole(resources.get("workers", 1)))
    if rank >= ranks:
        raise NotFoundError(f"stage '{stage}' has ranks 0 to {ranks - 1}, not {rank}")
    return rank // each


def _why(pod: Pod) -> str:
    """What keeps a pod from starting, in brackets; empty when it does not say."""
    reason = pod.waiting_reason or ("Unschedulable" if pod.unschedulable else "")
    message = pod.waiting_message or pod.unschedulable
    return f" ({reason}{': ' if reason and message else ''}{message})" if reason or message else ""
