"""Whose a pod's token is: what it says of itself first, and the API server's word before it counts.

Anybody in the cluster can post, so what nobody has confirmed yet costs the API server nothing: a
token is shown to it only when it names a pod that is known here, and not too often for one pod.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from florence_operator.kube.client import Client
from florence_operator.kube.rate_limits import TokenBucket
from florence_operator.runtime.authorizing import review_token

TRUSTED_SECONDS = 120.0
REFUSED_SECONDS = 20.0
REVIEWS_PER_SECOND = 100.0
REVIEWS_AT_ONCE = 500
_POD_REVIEWS_PER_SECOND = 0.2
_POD_REVIEWS_AT_ONCE = 5
_REMEMBERED = 20_000
_POD_NAME = "authentication.kubernetes.io/pod-name"
_POD_UID = "authentication.kubernetes.io/pod-uid"


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


def claimed(token: str) -> PodIdentity:
    """The pod that a token says it was given to; nothing has been checked.

    Raises:
        RefusedError: it is no service account's token, or of no pod.
    """
    try:
        payload = token.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        kubernetes = claims["kubernetes.io"]
        namespace = kubernetes["namespace"]
        name, uid = kubernetes["pod"]["name"], kubernetes["pod"]["uid"]
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise RefusedError(401, "the token is not a service account's, bound to a pod") from None
    if not (isinstance(namespace, str) and isinstance(name, str) and isinstance(uid, str)):
        raise RefusedError(401, "the token is not a service account's, bound to a pod")
    return PodIdentity(namespace, name, uid)


class TokenChecker:
    """Asks the API server whose a token is, and remembers what it said for a while.

    Its requests have a limit of their own: those of the reconcilers never wait behind them.

    Args:
        clock: seconds that only ever grow.
    """

    def __init__(self, client: Client, audience: str, clock: Callable[[], float]) -> None:
        self._client = client.unlimited()
        self._audience = audience
        self._clock = clock
        self._known: dict[bytes, tuple[float, RefusedError | None]] = {}
        self._all = TokenBucket(REVIEWS_PER_SECOND, REVIEWS_AT_ONCE, clock=clock)
        self._pods: dict[str, TokenBucket] = {}

    async def confirm(self, token: str, pod: PodIdentity) -> None:
        """Does nothing when the token was given to that pod.

        Raises:
            RefusedError: it was not, is not for us, or was asked about too often.
            ApiError: the API server does not answer.
        """
        digest = hashlib.sha256(token.encode()).digest()
        until, refused = self._known.get(digest, (0.0, None))
        if self._clock() >= until:
            self._take_turn(pod)
            refused = await self._review(token, pod)
            self._remember(digest, refused)
        if refused is not None:
            raise RefusedError(refused.status, str(refused))

    def _take_turn(self, pod: PodIdentity) -> None:
        own = self._pods.get(pod.uid)
        if own is None:
            if len(self._pods) >= _REMEMBERED:
                self._pods = {uid: known for uid, known in self._pods.items() if not known.full}
            own = TokenBucket(_POD_REVIEWS_PER_SECOND, _POD_REVIEWS_AT_ONCE, clock=self._clock)
            self._pods[pod.uid] = own
        if not own.try_acquire():
            raise RefusedError(429, f"too many tokens of pod {pod.name}: try again later")
        if not self._all.try_acquire():
            raise RefusedError(429, "too many tokens at once: try again later")

    def _remember(self, digest: bytes, refused: RefusedError | None) -> None:
        now = self._clock()
        if len(self._known) >= _REMEMBERED:
            self._known = {k: v for k, v in self._known.items() if now < v[0]}
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        lasts = TRUSTED_SECONDS if refused is None else REFUSED_SECONDS
        self._known[digest] = (now + lasts, refused)

    async def _review(self, token: str, pod: PodIdentity) -> RefusedError | None:
        """Why the token is not the pod's; None when it is."""
        status = await review_token(self._client, token, audiences=[self._audience])
        if not status.get("authenticated") or self._audience not in (status.get("audiences") or ()):
            return RefusedError(401, "the token is not valid for this audience")
        user = status.get("user") or {}
        extra = user.get("extra") or {}
        parts = str(user.get("username", "")).split(":")
        service_account = len(parts) == 4 and parts[:2] == ["system", "serviceaccount"]
        if not service_account or (parts[2], extra.get(_POD_NAME), extra.get(_POD_UID)) != (
            pod.namespace,
            [pod.name],
            [pod.uid],
        ):
            return RefusedError(403, "the token is not bound to the pod that it names")
        return None
