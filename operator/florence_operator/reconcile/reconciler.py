"""Look at a job in the caches, have it decided what to do, and do that; nothing is decided here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from florence.config.base import first_problem
from florence_operator.api.attempt_pods import owner
from florence_operator.api.duration import seconds
from florence_operator.api.managed_by import ours
from florence_operator.api.manifest import from_store
from florence_operator.api.status import JobStatus, State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER, KIND, FlorenceJob
from florence_operator.build.names import removal_name
from florence_operator.kube.client import FLORENCE_JOBS, JOBS, ApiError, Client
from florence_operator.observe.answers import Answers
from florence_operator.observe.caches import Caches
from florence_operator.observe.nodes import NodeRecords
from florence_operator.observe.observation import Observation, Question, Removal
from florence_operator.observe.strikes import Strikes
from florence_operator.progress.reports import ProgressBook
from florence_operator.reconcile.decide import decide
from florence_operator.reconcile.decision import Decision, Notice
from florence_operator.reconcile.deletion import Deleter
from florence_operator.reconcile.starting import Starter
from florence_operator.reconcile.status import invalid
from florence_operator.reconcile.write_budget import WriteBudget
from florence_operator.runtime.controller import Result
from florence_operator.runtime.events import EventRecorder
from florence_operator.runtime.store import Key
from florence_operator.settings import OperatorConfiguration

log = logging.getLogger(__name__)

_JOB = Question("FlorenceJob")
_AT_ONCE = 0.1
_ENDED = (State.SUCCEEDED, State.FAILED)
_REMOVAL_POLL = 5.0
_NAME_POLL = 2.0

Document = Mapping[str, Any]


class Reconciler:
    """Brings one job at a time to where it should be.

    Args:
        hears_since: since when this replica leads, and reports of pods reach it.
        told: called with a job's key, its old and its new status after every write.
        ca: the certificates that pods check the progress server's against, in PEM.
        clock: Unix seconds.
        strikes: what counts against nodes; it follows the jobs.
        nodes: every node; it follows the cache of nodes.
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
        hears_since: Callable[[], float],
        told: Callable[[Key, JobStatus, JobStatus], None] = lambda key, old, new: None,
        strikes: Strikes | None = None,
        nodes: NodeRecords | None = None,
    ) -> None:
        self._client = client
        self._caches = caches
        self._events = events
        self._settings = settings
        self._book = book
        self._clock = clock
        self._ca = ca
        self._told = told
        self._hears_since = hears_since
        half_life = seconds(settings.failures.strike_half_life)
        self._strikes = strikes or Strikes(half_life)
        self._nodes = nodes or NodeRecords()
        writes = settings.status_writes
        self._budget = WriteBudget(seconds(writes.interval), writes.per_second)
        self._deleter = Deleter(client, clock)
        self._starter = Starter(client, caches)
        self._quiet: Key | None = None
        """The job whose progress has just been written, while the caches are told."""
        self._known: dict[Key, str] = {}
        """The jobs, by uid, whose status this leader has read from the API server, or written: the
        cache's is no older, for nobody else writes it."""

    async def reconcile(self, key: Key) -> Result:
        """Look at one job and do what is to be done about it."""
        document = self._caches.jobs.get(key.namespace, key.name)
        if document is None:
            self._forget(key)
            return Result()
        if not ours(document):
            return Result()
        settled = self._settled(key, document)
        if settled is not None:
            return settled
        try:
            status = JobStatus.model_validate(document.get("status") or {})
        except ValidationError as error:
            return await self._leave(document, f"status.{first_problem(error)}")
        try:
            job = from_store({**document, "status": None})
        except ValidationError as error:
            return await self._refuse(document, status, first_problem(error))
        if document.get("status"):
            job = job.model_copy(update={"status": status})
        answers = Answers(self._client, self._caches, key, document["metadata"]["uid"])
        if self._known.get(key) == document["metadata"]["uid"]:
            answers.asked = frozenset({_JOB})
        return await self._act(
            key, document, await self._look(key, document, job, answers), answers
        )

    def turn(self, key: Key) -> float:
        """Seconds until the progress of a job may be written, and so is worth a look."""
        return self._budget.turn(key, self._clock())

    def writes_progress(self, key: Key) -> bool:
        """Whether a change of a job in its cache is this one's own and of nothing but progress."""
        return key == self._quiet

    def _forget(self, key: Key) -> None:
        self._book.forget(key)
        self._budget.forget(key)
        self._known.pop(key, None)

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
        if self._caches.left_of(key, uid):
            return None
        self._forget(key)
        return Result()

    async def _look(
        self, key: Key, document: Document, job: FlorenceJob, answers: Answers
    ) -> Observation:
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
            hears_since=self._hears_since(),
            strikes=self._strikes.by_node,
            pool=self._nodes.by_name,
            removal=await self._removal(key, uid)
            if deleting and ARTIFACTS_FINALIZER in finalizers
            else None,
            **answers.observed(),
        )

    async def _decide(
        self, key: Key, document: Document, seen: Observation, answers: Answers
    ) -> tuple[Observation, Decision] | None:
        """What to do, after the API server has been asked all that it hangs on.

        None where the job is no more as it was here: nothing may follow from what it was.
        """
        while True:
            decision = decide(seen, self._settings, ca=self._ca())
            if not decision.questions:
                return seen, decision
            await answers.ask(decision.questions)
            if _JOB in decision.questions:
                if not answers.is_newest(document):
                    return None
                self._known[key] = document["metadata"]["uid"]
            seen = replace(seen, **answers.observed())

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

    async def _act(
        self, key: Key, document: Document, seen: Observation, answers: Answers
    ) -> Result:
        decided = await self._decide(key, document, seen, answers)
        if decided is None:
            return Result(requeue_after=_AT_ONCE)
        seen, decision = decided
        if decision.finalizers is not None:
            patch = {
                "metadata": {
                    "finalizers": list(decision.finalizers),
                    "resourceVersion": document["metadata"]["resourceVersion"],
                }
            }
            document = await self._client.patch(FLORENCE_JOBS, key.name, key.namespace, patch)
            self._caches.jobs.put(dict(document))
        refusals, error = await self._starter.start(
            decision.starts, document["metadata"]["uid"], answers
        )
        if refusals:
            # What was made is in the caches now; what was refused becomes part of the picture.
            seen = replace(seen, refusals=refusals, **answers.observed())
            decided = await self._decide(key, document, seen, answers)
            if decided is None:
                return Result(requeue_after=_AT_ONCE)
            seen, decision = decided[0], replace(decided[1], finalizers=None)
        decision = await self._apply(seen, decision)
        later = await self._write(key, document, seen, decision)
        if later is not None and later <= 0:
            return Result(requeue_after=_AT_ONCE)
        for deletion in decision.delete:
            await self._deleter.delete(key.namespace, deletion)
        for event in decision.events:
            await self._record(document, event)
        if error is not None:
            raise error
        waits = [decision.requeue_after, later, _NAME_POLL if refusals else None]
        if seen.deleting and ARTIFACTS_FINALIZER in seen.finalizers:
            waits.append(_REMOVAL_POLL)
        return Result(requeue_after=min((w for w in waits if w is not None), default=None))

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
        if not await self._put_status(document, decision.status, quiet=not decision.urgent):
            return 0.0
        self._known[key] = document["metadata"]["uid"]
        self._told(key, seen.job.status or JobStatus(), decision.status)
        return None

    async def _put_status(
        self, document: Document, status: JobStatus, *, quiet: bool = False
    ) -> bool:
        """Write a status over the one that was read; whether that was still the newest.

        What is ``quiet`` leads to nothing else: no look has to follow.
        """
        body = {**document, "status": status.stored()}
        try:
            answer = await self._client.replace_status(FLORENCE_JOBS, body)
        except ApiError as error:
            if error.conflict or error.not_found:
                return False
            raise
        metadata = answer["metadata"]
        self._quiet = Key(metadata["namespace"], metadata["name"]) if quiet else None
        self._caches.jobs.put(answer)
        self._quiet = None
        return True

    async def _record(self, document: Document, event: Notice) -> None:
        await self._events.record(
            dict(document), event.type, event.reason, event.message, action=event.action
        )

    async def _refuse(self, document: Document, old: JobStatus, problem: str) -> Result:
        """Say in the status of a job that cannot be read what is wrong with it."""
        if "deletionTimestamp" in document["metadata"]:
            return await self._let_go(document, problem)
        generation = document["metadata"].get("generation")
        status = invalid(generation, old, problem, self._clock())
        if status != old and not await self._put_status(document, status):
            return Result(requeue_after=_AT_ONCE)
        return Result()

    async def _leave(self, document: Document, problem: str) -> Result:
        """Let a job alone whose status this version cannot read: writing it would destroy it."""
        if "deletionTimestamp" in document["metadata"]:
            return await self._let_go(document, problem)
        said = f"this version of the operator leaves the job alone: it cannot read {problem}"
        await self._record(
            document, Notice(type="Warning", reason="Unreadable", message=said, action="Reading")
        )
        return Result()

    async def _let_go(self, document: Document, problem: str) -> Result:
        """Release a deleted job that cannot be read: it must not hold its namespace for ever."""
        metadata = document["metadata"]
        held = list(metadata.get("finalizers") or ())
        if ARTIFACTS_FINALIZER not in held:
            return Result()
        held.remove(ARTIFACTS_FINALIZER)
        patch = {"metadata": {"finalizers": held, "resourceVersion": metadata["resourceVersion"]}}
        await self._client.patch(FLORENCE_JOBS, metadata["name"], metadata["namespace"], patch)
        said = f"its artifacts stay: this version of the operator cannot read {problem}"
        await self._record(
            document,
            Notice(type="Warning", reason="ArtifactsLeft", message=said, action="Deleting"),
        )
        return Result()
