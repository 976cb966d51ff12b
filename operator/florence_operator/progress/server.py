"""Take the progress that pods report: check who says it, and keep the newest."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from florence.config.base import first_problem
from florence.config.progress import StageProgress
from florence_operator.api.attempt_pods import pod_from
from florence_operator.api.labels import JOB_LABEL, UID_LABEL
from florence_operator.api.status import JobStatus
from florence_operator.kube.client import ApiError
from florence_operator.observe.caches import Caches, made_for_its_attempt
from florence_operator.progress.reports import News, Posted, ProgressBook
from florence_operator.progress.tokens import PodIdentity, RefusedError, TokenChecker, claimed
from florence_operator.runtime.store import Key

LARGEST = 64 * 1024
LARGEST_NUMBER = 2**53
"""What JSON's readers agree on."""
LONGEST_TEXT = 2048
_MOST_UNUSABLE = 16

Forward = Callable[[bytes, str], Awaitable[tuple[int, bytes]]]


class ProgressServer:
    """The handler of POST /progress.

    Args:
        enqueue: has the job looked at.
        in_turn: has the job looked at once its progress may be written.
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
        in_turn: Callable[[Key], None],
        leading: Callable[[], bool],
        forward: Forward,
    ) -> None:
        self._caches = caches
        self._tokens = tokens
        self._book = book
        self._clock = clock
        self._look = {News.NOW: enqueue, News.IN_TURN: in_turn}
        self._leading = leading
        self._forward = forward

    async def handle(self, request: web.Request) -> web.Response:
        """Take one report."""
        try:
            body = await _body(request)
            authorization = request.headers.get("Authorization", "")
            token = _token(authorization)
            posted, pod = _posted(body), claimed(token)
            # What the caches know is asked before the API server, and before another replica.
            self._check_pod(posted, pod)
            if not self._leading():
                status, answer = await self._forward(body, authorization)
                return web.Response(status=status, body=answer, content_type="application/json")
            self._check_attempt(posted)
            await self._tokens.confirm(token, pod)
        except RefusedError as error:
            return web.json_response({"error": str(error)}, status=error.status)
        except (ApiError, OSError) as error:
            return web.json_response({"error": f"try again: {error}"}, status=503)
        look = self._look.get(self._book.take(posted, self._clock()))
        if look is not None:
            look(Key(posted.namespace, posted.job))
        return web.json_response({})

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
        children = self._caches.children_of(Key(posted.namespace, posted.job), posted.uid)
        if not made_for_its_attempt(pod, children):
            raise RefusedError(403, f"pod {identity.name} was not made for the attempt")
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
        if not attempts or attempts[-1].number != posted.attempt or attempts[-1].completion_time:
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


def _token(authorization: str) -> str:
    kind, _, token = authorization.partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise RefusedError(401, "Authorization: a bearer token is needed")
    return token.strip()


def _posted(body: bytes) -> Posted:
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "the body is not JSON") from None
    try:
        posted = Posted.model_validate(document)
    except ValidationError as error:
        raise RefusedError(400, first_problem(error)) from None
    return posted.model_copy(update={"progress": _bounded(posted.progress)})


def _bounded(progress: StageProgress) -> StageProgress:
    """The progress, if a status can hold it: all of it is written there."""
    for name, value in progress:
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise RefusedError(400, f"progress.{name}: is longer than {LONGEST_TEXT} characters")
        if isinstance(value, int) and abs(value) > LARGEST_NUMBER:
            raise RefusedError(400, f"progress.{name}: is larger than {LARGEST_NUMBER}")
    # These are sentences for people: the first tell enough, and no report is lost for them.
    unusable = tuple(text[:LONGEST_TEXT] for text in progress.unusable[:_MOST_UNUSABLE])
    return progress.model_copy(update={"unusable": unusable})
