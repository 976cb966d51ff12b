"""Who may read what the operator serves: the API server says, as for controller-runtime's metrics.

Whoever asks shows a bearer token. A TokenReview tells whose it is, and a SubjectAccessReview
whether that one may ``get`` the path, which is a right to a ``nonResourceURL``.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from florence_operator.kube.client import SUBJECT_REVIEWS, TOKEN_REVIEWS, Client
from florence_operator.kube.errors import ApiError
from florence_operator.kube.rate_limits import TokenBucket
from florence_operator.runtime.webserver import Route

ALLOWED_SECONDS = 60.0
REFUSED_SECONDS = 20.0
OUTAGE_SECONDS = 900.0
"""How long who was allowed goes on to be while the API server does not answer: that is when the
metrics are wanted most."""
REVIEWS_PER_SECOND = 5.0
REVIEWS_AT_ONCE = 20
_REMEMBERED = 1_000

Document = dict[str, Any]


async def review_token(client: Client, token: str, **expected: Any) -> Document:
    """The status of a TokenReview, with what else its spec is to have, such as ``audiences``."""
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, **expected},
    }
    answer = await client.request("POST", TOKEN_REVIEWS.path(), body=review)
    status: Document = answer.get("status") or {}
    return status


@dataclass(frozen=True, slots=True)
class _Verdict:
    refusal: str
    """Why not; empty when it is allowed."""
    status: int
    since: float


class Authorizer:
    """Asks the API server, and remembers what it said for a while."""

    def __init__(self, client: Client, *, clock: Callable[[], float] = time.monotonic) -> None:
        # Its requests have a limit of their own: nobody may hold up the reconcilers by asking.
        self._client = client.unlimited()
        self._clock = clock
        self._turns = TokenBucket(REVIEWS_PER_SECOND, REVIEWS_AT_ONCE, clock=clock)
        self._known: dict[tuple[bytes, str], _Verdict] = {}

    def guarded(self, route: Route) -> Route:
        """The route, for those only who may ``get`` its path."""
        method, path, handler = route

        async def guarded(request: web.Request) -> web.StreamResponse:
            kind, _, token = request.headers.get("Authorization", "").partition(" ")
            if kind.lower() != "bearer" or not token.strip():
                return _refused(401, "a bearer token is needed")
            try:
                verdict = await self._verdict(token.strip(), path)
            except ApiError as error:
                return _refused(503, f"try again: {error}")
            if verdict is None:
                return _refused(429, "too many tokens at once: try again later")
            if verdict.refusal:
                return _refused(verdict.status, verdict.refusal)
            return await handler(request)

        return method, path, guarded

    async def _verdict(self, token: str, path: str) -> _Verdict | None:
        """What is known, or what the API server says; None when it may not be asked now."""
        key = hashlib.sha256(token.encode()).digest(), path
        known, now = self._known.get(key), self._clock()
        age = math.inf if known is None else now - known.since
        if known is not None and age < (REFUSED_SECONDS if known.refusal else ALLOWED_SECONDS):
            return known
        if not self._turns.try_acquire():
            return None
        try:
            fresh = await self._ask(token, path)
        except ApiError as error:
            lost = error.unreachable or error.status >= 500
            if known is not None and not known.refusal and lost and age < OUTAGE_SECONDS:
                return known
            raise
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[key] = fresh
        return fresh

    async def _ask(self, token: str, path: str) -> _Verdict:
        status = await review_token(self._client, token)
        if not status.get("authenticated"):
            return _Verdict("the token is not valid", 401, self._clock())
        user: Document = status.get("user") or {}
        name = user.get("username", "")
        spec = {
            "user": name,
            "uid": user.get("uid", ""),
            "groups": user.get("groups") or [],
            "extra": user.get("extra") or {},
            "nonResourceAttributes": {"path": path, "verb": "get"},
        }
        access = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": spec,
        }
        answer = await self._client.request("POST", SUBJECT_REVIEWS.path(), body=access)
        if not (answer.get("status") or {}).get("allowed"):
            refusal = f"'{name}' may not get {path}: bind a role with that nonResourceURL"
            return _Verdict(refusal, 403, self._clock())
        return _Verdict("", 200, self._clock())


def _refused(status: int, why: str) -> web.Response:
    return web.Response(status=status, text=f"{why}\n")
