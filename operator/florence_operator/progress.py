"""Take the progress that pods report: check who says it, and keep the newest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from florence.config.base import Settings, first_problem, setting
from florence.config.progress import StageProgress
from florence_operator.api.status import JobStatus
from florence_operator.caches import Caches
from florence_operator.observe import JOB_LABEL, UID_LABEL, Report, pod_from
from florence_operator.runtime.client import TOKEN_REVIEWS, ApiError, Client
from florence_operator.runtime.store import Key

LARGEST = 64 * 1024
_TRUSTED_SECONDS = 60.0
_TRUSTED_TOKENS = 20_000
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"

Forward = Callable[[bytes, str], Awaitable[tuple[int, bytes]]]


class Posted(Settings):
    """What a pod posts."""

    namespace: str = setting(description="namespace of the job")
    job: str = setting(description="name of the job")
    uid: str = setting(description="uid of the job")
    stage: str = setting(description="name of the stage")
    attempt: int = setting(description="number of the attempt", ge=1)
    progress: StageProgress = setting(description="how far it is")


class ProgressBook:
    """The newest report of every attempt that goes on; lost with the process, and soon told again.

    Asking it costs nothing, so the reconciler does so at every look.

    Args:
        silence: seconds after which an attempt that does not report counts as not heard.
    """

    def __init__(self, silence: float = 120.0) -> None:
        self._silence = silence
        self._reports: dict[Key, dict[tuple[str, str, int], Report]] = {}

    def take(self, posted: Posted, now: float) -> bool:
        """Keep a report; whether the job has to be looked at because of it.

        That an attempt did not get further counts from one report to the next: after a silence it
        begins anew.
        """
        reports = self._reports.setdefault(Key(posted.namespace, posted.job), {})
        place = (posted.uid, posted.stage, posted.attempt)
        known = reports.get(place)
        moved = known is None or _position(known.progress) != _position(posted.progress)
        again = known is None or now - known.heard >= self._silence
        received = now if moved or known is None or again else known.received
        for other in [p for p in reports if p[0] != posted.uid or p[1] == posted.stage]:
            # A stage has one attempt at a time, and a name one job.
            del reports[other]
        reports[place] = Report(progress=posted.progress, received=received, heard=now)
        return known is None or again or known.progress != posted.progress

    def of(self, key: Key, uid: str) -> dict[tuple[str, int], Report]:
        """The reports of a job, by stage and attempt."""
        reports = self._reports.get(key, {})
        return {(p[1], p[2]): report for p, report in reports.items() if p[0] == uid}

    def forget(self, key: Key) -> None:
        """The job is gone or over."""
        self._reports.pop(key, None)


def _position(progress: StageProgress) -> tuple[object, ...]:
    return (
        progress.step,
        progress.phase,
        progress.phase_fraction,
        progress.samples,
        progress.checkpoint_step,
    )


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """Whose token it is."""

    namespace: str
    name: str
    uid: str


class RefusedError(Exception):
    """A report that is not taken."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class TokenChecker:
    """Asks the API server whose a token is, and remembers the answer for a minute at most."""

    def __init__(self, client: Client, audience: str, clock: Callable[[], float]) -> None:
        self._client = client
        self._audience = audience
        self._clock = clock
        self._known: dict[bytes, tuple[float, PodIdentity]] = {}

    async def check(self, token: str) -> PodIdentity:
        """The pod that a token was given to.

        Raises:
            RefusedError: the token is not valid, not for us, or of no pod.
            ApiError: the API server does not answer.
        """
        digest = hashlib.sha256(token.encode()).digest()
        until, known = self._known.get(digest, (0.0, None))
        if known is not None and self._clock() < until:
            return known
        identity = await self._review(token)
        if len(self._known) >= _TRUSTED_TOKENS:
            now = self._clock()
            self._known = {k: v for k, v in self._known.items() if now < v[0]}
        if len(self._known) < _TRUSTED_TOKENS:
            self._known[digest] = (self._clock() + _TRUSTED_SECONDS, identity)
        return identity

    async def _review(self, token: str) -> PodIdentity:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        answer = await self._client.request("POST", TOKEN_REVIEWS.path(), body=review)
        status = answer.get("status") or {}
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or ()):
            raise RefusedError(401, "the token is not valid for this audience")
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        names: list[str] = extra.get(_POD_NAME) or []
        uids: list[str] = extra.get(_POD_UID) or []
        parts = str(user.get("username", "")).split(":")
        service_account = len(parts) == 4 and parts[:2] == ["system", "serviceaccount"]
        if len(names) != 1 or len(uids) != 1 or not service_account:
            raise RefusedError(403, "the token is not bound to a pod")
        return PodIdentity(parts[2], names[0], uids[0])


class ProgressServer:
    """The handler of POST /progress.

    Args:
        enqueue: has the job looked at.
        leading: whether this replica is the leader; reports belong to the leader alone.
        forward: passes a body and its Authorization on to the leader, and gives its answer.
    """

    def __init__(
        self,
        caches: Caches,
        tokens: TokenChecker,
        book: ProgressBook,
        *,
        clock: Callable[[], float],
        enqueue: Callable[[Key], None],
        leading: Callable[[], bool],
        forward: Forward,
    ) -> None:
        self._caches = caches
        self._tokens = tokens
        self._book = book
        self._clock = clock
        self._enqueue = enqueue
        self._leading = leading
        self._forward = forward

    async def handle(self, request: web.Request) -> web.Response:
        """Take one report."""
        try:
            body = await _body(request)
            authorization = request.headers.get("Authorization", "")
            if not self._leading():
                status, answer = await self._forward(body, authorization)
                return web.Response(status=status, body=answer, content_type="application/json")
            await self._take(body, authorization)
        except RefusedError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except (ApiError, OSError) as error:
            return web.json_response({"error": f"try again: {error}"}, status=503)
        return web.json_response({})

    async def _take(self, body: bytes, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise RefusedError(401, "Authorization: a bearer token is needed")
        posted = _posted(body)
        identity = await self._tokens.check(token.strip())
        self._check_pod(posted, identity)
        self._check_attempt(posted)
        if self._book.take(posted, self._clock()):
            self._enqueue(Key(posted.namespace, posted.job))

    def _check_pod(self, posted: Posted, identity: PodIdentity) -> None:
        """Whether the token's pod is worker 0 of the attempt that it speaks of."""
        if identity.namespace != posted.namespace:
            raise RefusedError(403, f"the pod is in namespace {identity.namespace}")
        document = self._caches.pods.get(identity.namespace, identity.name)
        if document is None or document["metadata"].get("uid") != identity.uid:
            raise RefusedError(403, f"pod {identity.name} is of no attempt")
        pod, labels = pod_from(document), document["metadata"].get("labels") or {}
        told_of = posted.job, posted.uid, posted.stage, posted.attempt
        of = labels.get(JOB_LABEL), labels.get(UID_LABEL)
        if pod is None or (*of, pod.stage, pod.attempt) != told_of:
            raise RefusedError(403, f"pod {identity.name} is of another attempt")
        if pod.index != 0:
            raise RefusedError(403, f"pod {identity.name} is not worker 0, which reports for all")

    def _check_attempt(self, posted: Posted) -> None:
        """Whether the attempt is the one that goes on."""
        document = self._caches.jobs.get(posted.namespace, posted.job)
        if document is None or document["metadata"].get("uid") != posted.uid:
            raise RefusedError(409, f"job {posted.job} with uid {posted.uid} is gone")
        try:
            status = JobStatus.model_validate(document.get("status") or {})
        except ValidationError as error:
            raise RefusedError(409, f"status of {posted.job}: {first_problem(error)}") from None
        attempts = status.stage(posted.stage).attempts
        if not attempts or attempts[-1].number != posted.attempt or attempts[-1].ended:
            raise RefusedError(409, f"attempt {posted.attempt} of {posted.stage} is over")


async def _body(request: web.Request) -> bytes:
    if (request.content_length or 0) > LARGEST:
        raise RefusedError(413, f"a report has {LARGEST} bytes at most")
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > LARGEST:
            raise RefusedError(413, f"a report has {LARGEST} bytes at most")
    return bytes(body)


def _posted(body: bytes) -> Posted:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None
    try:
        return Posted.model_validate(document)
    except ValidationError as error:
        raise RefusedError(400, first_problem(error)) from None
