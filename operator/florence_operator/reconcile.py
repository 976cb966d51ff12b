"""Look at a job in the caches, have it decided what to do, and do that; nothing is decided here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from florence.config.base import first_problem
from florence_operator.api.duration import seconds
from florence_operator.api.manifest import from_cluster
from florence_operator.api.status import JobStatus, State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER, KIND, FlorenceJob
from florence_operator.build import removal_name
from florence_operator.caches import Caches, owner
from florence_operator.decision import Decision, Deletion, Notice
from florence_operator.observe import Observation, Refusal, Removal
from florence_operator.progress import ProgressBook
from florence_operator.runtime.client import (
    FLORENCE_JOBS,
    JOBS,
    PYTORCH_JOBS,
    ApiError,
    Client,
)
from florence_operator.runtime.controller import Result
from florence_operator.runtime.events import EventRecorder
from florence_operator.runtime.store import Key
from florence_operator.schedule import decide
from florence_operator.settings import OperatorConfiguration
from florence_operator.status import invalid
from florence_operator.writes import WriteBudget

log = logging.getLogger(__name__)

_KINDS = {"PyTorchJob": PYTORCH_JOBS, "FlorenceJob": FLORENCE_JOBS}
_ENDED = (State.SUCCEEDED, State.FAILED)
_REMOVAL_POLL = 5.0
_NAME_POLL = 2.0
_ASKED_FOR = 30.0
_REMEMBERED = 10_000

Document = Mapping[str, Any]


class Reconciler:
    """Brings one job at a time to where it should be.

    Args:
        told: called with a job's key, its old and its new status after every write.
        ca: the certificates that pods check the progress server's against, in PEM.
        clock: Unix seconds.
    """

    def __init__(
        self,
        client: Client,
        caches: Caches,
        events: EventRecorder,
        settings: OperatorConfiguration,
        book: ProgressBook,
        *,
        clock: Callable[[], float],
        ca: Callable[[], str],
        told: Callable[[Key, JobStatus, JobStatus], None] = lambda key, old, new: None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._settings = settings
        self._book = book
        self._clock = clock
        self._ca = ca
        self._told = told
        self._started = clock()
        writes = settings.status_writes
        self._budget = WriteBudget(seconds(writes.interval), writes.per_second)
        self._asked: dict[tuple[str, str, str, str], float] = {}

    async def reconcile(self, key: Key) -> Result:
        """Look at one job and do what is to be done about it."""
        document = self._caches.jobs.get(key.namespace, key.name)
        if document is None:
            self._book.forget(key)
            self._budget.forget(key)
            return Result()
        settled = self._settled(key, document)
        if settled is not None:
            return settled
        try:
            job = from_cluster(document)
        except ValidationError as error:
            return await self._refuse(key, document, first_problem(error))
        seen = await self._look(key, document, job)
        return await self._act(key, document, seen)

    def _settled(self, key: Key, document: Document) -> Result | None:
        """For a job that has ended and left nothing: when to look again; None for any other.

        There may be tens of thousands of them, so they are not even read.
        """
        metadata, status = document["metadata"], document.get("status") or {}
        if status.get("phase") not in _ENDED or "deletionTimestamp" in metadata:
            return None
        if status.get("observedGeneration") != metadata.get("generation"):
            return None
        policy = (document.get("spec") or {}).get("runPolicy") or {}
        if policy.get("ttlAfterFinished") or policy.get("ttlAfterFailed"):
            return None
        uid = metadata["uid"]
        if self._caches.children_of(key, uid):
            return None
        self._book.forget(key)
        self._budget.forget(key)
        return Result()

    async def _look(self, key: Key, document: Document, job: FlorenceJob) -> Observation:
        metadata = document["metadata"]
        deleting = "deletionTimestamp" in metadata
        finalizers = tuple(metadata.get("finalizers") or ())
        uid = metadata["uid"]
        return Observation(
            job=job,
            now=self._clock(),
            deleting=deleting,
            finalizers=finalizers,
            progress=self._book.of(key, uid),
            operator_started=self._started,
            removal=await self._removal(key, uid)
            if deleting and ARTIFACTS_FINALIZER in finalizers
            else None,
            **self._caches.observe(key, uid),
        )

    async def _removal(self, key: Key, uid: str) -> Removal | None:
        """How far the Job is that deletes the artifacts; rare, so no cache is kept of such Jobs."""
        try:
            job = await self._client.get(JOBS, removal_name(key.name), key.namespace)
        except ApiError as error:
            if error.not_found:
                return None
            raise
        if owner(job) != uid:
            owners = job["metadata"].get("ownerReferences") or ()
            if any(each.get("kind") == KIND for each in owners):
                return Removal()  # an older namesake's, which garbage collection is about to take
            return Removal(failed=f"the Job {job['metadata']['name']} is somebody else's")
        conditions = (job.get("status") or {}).get("conditions") or ()
        true = {c["type"]: c.get("message", "") for c in conditions if c["status"] == "True"}
        failed = f"its Job failed: {true['Failed']}" if "Failed" in true else ""
        return Removal(done="Complete" in true, failed=failed)

    async def _act(self, key: Key, document: Document, seen: Observation) -> Result:
        uid = document["metadata"]["uid"]
        decision = decide(seen, self._settings, ca=self._ca())
        if decision.finalizers is not None:
            patch = {
                "metadata": {
                    "finalizers": list(decision.finalizers),
                    "resourceVersion": document["metadata"]["resourceVersion"],
                }
            }
            document = await self._client.patch(FLORENCE_JOBS, key.name, key.namespace, patch)
            self._caches.jobs.put(dict(document))
        refusals, error = await self._start(decision, uid)
        if refusals:
            # What was made is in the caches now; what was refused becomes part of the picture.
            now = {"refusals": refusals, **self._caches.observe(key, uid)}
            seen = replace(seen, **now)
            decision = replace(decide(seen, self._settings, ca=self._ca()), finalizers=None)
        decision = await self._apply(seen, decision)
        later = await self._write(key, document, seen, decision)
        if later is not None and later <= 0:
            return Result(requeue_after=0.1)
        for deletion in decision.delete:
            await self._delete(key, deletion)
        for event in decision.events:
            await self._record(document, event)
        if error is not None:
            raise error
        waits = [decision.requeue_after, later, _NAME_POLL if refusals else None]
        if seen.deleting and ARTIFACTS_FINALIZER in seen.finalizers:
            waits.append(_REMOVAL_POLL)
        return Result(requeue_after=min((w for w in waits if w is not None), default=None))

    async def _start(
        self, decision: Decision, uid: str
    ) -> tuple[dict[str, Refusal], ApiError | None]:
        """Make the objects of new attempts; what the server refuses, by stage, and its error."""
        refusals: dict[str, Refusal] = {}
        last: ApiError | None = None
        for start in decision.starts:
            for document in start.documents:
                taken = self._caches.foreign(document, uid)
                if taken is not None:
                    refusals[start.stage] = Refusal(message=taken, final=False)
                    break
                try:
                    await self._make(document)
                except ApiError as error:
                    if error.unreachable or error.conflict or error.unauthorized:
                        raise
                    final = error.status in (400, 422)
                    refusals[start.stage] = Refusal(message=error.message, final=final)
                    last = last if final else error
                    break
        return refusals, last

    async def _make(self, document: Document) -> None:
        self._caches.children.put(await self._client.apply(dict(document)))

    async def _apply(self, seen: Observation, decision: Decision) -> Decision:
        """Make what belongs to no attempt; a namespace that is going takes nothing any more."""
        try:
            for document in decision.apply:
                await self._client.apply(dict(document))
        except ApiError as error:
            causes = error.details.get("causes") or ()
            if not any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
                raise
            log.info("%s: its namespace is being deleted", seen.job.metadata.name)
            again = decide(replace(seen, namespace_terminating=True), self._settings, ca="")
            await self._finalize(seen, again)
            return replace(again, finalizers=None)
        return decision

    async def _finalize(self, seen: Observation, decision: Decision) -> None:
        if decision.finalizers is None:
            return
        patch = {"metadata": {"finalizers": list(decision.finalizers)}}
        job = seen.job
        await self._client.patch(FLORENCE_JOBS, job.metadata.name, job.namespace, patch)

    async def _write(
        self, key: Key, document: Document, seen: Observation, decision: Decision
    ) -> float | None:
        """Write the status; seconds until it may be written, 0 when somebody else was faster."""
        if not decision.changed:
            return None
        later = self._budget.wait(key, seen.now, urgent=decision.urgent)
        if later is not None:
            return later
        if not await self._put_status(document, decision.status):
            return 0.0
        self._told(key, seen.job.status or JobStatus(), decision.status)
        return None

    async def _put_status(self, document: Document, status: JobStatus) -> bool:
        """Write a status over the one that was read; whether that was still the newest."""
        body = {**document, "status": status.stored()}
        try:
            answer = await self._client.replace_status(FLORENCE_JOBS, body)
        except ApiError as error:
            if error.conflict or error.not_found:
                return False
            raise
        self._caches.jobs.put(answer)
        return True

    async def _delete(self, key: Key, deletion: Deletion) -> None:
        asked = (deletion.kind, key.namespace, deletion.name, deletion.uid or "")
        now = self._clock()
        if now - self._asked.get(asked, -_ASKED_FOR) < _ASKED_FOR:
            return
        resource = _KINDS[deletion.kind]
        try:
            await self._client.delete(resource, deletion.name, key.namespace, uid=deletion.uid)
        except ApiError as error:
            # Gone already, or another object of that name: both are as wanted.
            if not (error.not_found or error.conflict):
                raise
        # The watch tells of it in a moment; until then it is not asked for again.
        self._asked[asked] = now
        if len(self._asked) > _REMEMBERED:
            self._asked = {k: t for k, t in self._asked.items() if now - t < _ASKED_FOR}

    async def _record(self, document: Document, event: Notice) -> None:
        await self._events.record(
            dict(document), event.type, event.reason, event.message, action=event.action
        )

    async def _refuse(self, key: Key, document: Document, problem: str) -> Result:
        """Say in the status of a job that cannot be read what is wrong with it."""
        try:
            old = JobStatus.model_validate(document.get("status") or {})
        except ValidationError:
            old = JobStatus()
        status = invalid(document["metadata"].get("generation"), old, problem, self._clock())
        if status != old and not await self._put_status(document, status):
            return Result(requeue_after=0.1)
        return Result()
