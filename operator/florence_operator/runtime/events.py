"""Events for people: few, never twice the same, and never a reason for anything to fail."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from florence_operator.api.conditions import shortened
from florence_operator.kube.client import EVENTS, Client
from florence_operator.kube.rate_limits import TokenBucket
from florence_operator.runtime.leader import micro_time

# What the API server allows.
NOTE_BYTES = 1024
WORD_LENGTH = 128

SERIES_SECONDS = 360.0
"""A repetition after this is a new event."""

BURST = 25
REFILL_SECONDS = 60.0
REMEMBERED = 4096

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Series:
    """An event that was sent, and how often it has happened since."""

    name: str
    namespace: str
    last: float
    written: float
    count: int = 1


class EventRecorder:
    """Writes events; the same one again within minutes makes a series of the first."""

    def __init__(
        self,
        client: Client,
        component: str,
        clock: Callable[[], datetime],
        *,
        instance: str = "",
    ) -> None:
        self._client = client
        self._component = component
        self._instance = (instance or component)[:WORD_LENGTH]
        self._clock = clock
        self._series: dict[tuple[str, ...], Series] = {}
        self._buckets: dict[str, TokenBucket] = {}

    async def record(
        self,
        regarding: Mapping[str, Any],
        type: Literal["Normal", "Warning"],  # noqa: A002 - the field's own name
        reason: str,
        message: str,
        *,
        action: str,
    ) -> None:
        """Tells of something that happened to an object; problems are logged and nothing more."""
        try:
            await self._record(regarding, type, reason, message, action)
        except Exception as error:
            log.warning("an event %s was not written: %s", reason, error)

    async def _record(
        self, regarding: Mapping[str, Any], kind: str, reason: str, message: str, action: str
    ) -> None:
        metadata = regarding.get("metadata") or {}
        uid = str(metadata.get("uid") or f"{metadata.get('namespace')}/{metadata.get('name')}")
        now = self._clock()
        key = (uid, kind, reason, action, message)
        series = self._series.get(key)
        if series is not None and now.timestamp() - series.last <= SERIES_SECONDS:
            await self._repeat(series, now)
            return
        if not self._bucket(uid).try_acquire():
            return
        event = self._event(regarding, kind, reason, message, action, now)
        self._series.pop(key, None)
        place = event["metadata"]
        at = now.timestamp()
        self._series[key] = Series(place["name"], place["namespace"], at, at)
        _forget(self._series)
        try:
            await self._client.create(event, manager=self._component)
        except Exception:
            self._series.pop(key, None)
            raise

    async def _repeat(self, series: Series, now: datetime) -> None:
        series.count += 1
        series.last = now.timestamp()
        # Each doubling, and otherwise once a minute: an event in a loop costs next to nothing.
        if series.count & (series.count - 1) and series.last - series.written < 60.0:
            return
        series.written = series.last
        change = {"series": {"count": series.count, "lastObservedTime": micro_time(now)}}
        await self._client.patch(EVENTS, series.name, series.namespace, change)

    def _event(
        self,
        regarding: Mapping[str, Any],
        kind: str,
        reason: str,
        message: str,
        action: str,
        now: datetime,
    ) -> dict[str, Any]:
        metadata = regarding.get("metadata") or {}
        namespace = metadata.get("namespace") or "default"
        name = f"{str(metadata.get('name', ''))[:200]}.{uuid.uuid4().hex[:16]}"
        note = shortened(message).encode()[:NOTE_BYTES].decode(errors="ignore")
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": micro_time(now),
            "type": kind,
            "reason": reason[:WORD_LENGTH],
            "action": action[:WORD_LENGTH],
            "note": note,
            "reportingController": self._component,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": regarding.get("apiVersion", ""),
                "kind": regarding.get("kind", ""),
                "namespace": metadata.get("namespace", ""),
                "name": metadata.get("name", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
        }

    def _bucket(self, uid: str) -> TokenBucket:
        bucket = self._buckets.pop(uid, None) or TokenBucket(
            1 / REFILL_SECONDS, BURST, clock=lambda: self._clock().timestamp()
        )
        self._buckets[uid] = bucket
        _forget(self._buckets)
        return bucket


def _forget(cache: dict[Any, Any]) -> None:
    """Keeps a cache small: what was added or used longest ago goes first."""
    while len(cache) > REMEMBERED:
        del cache[next(iter(cache))]
