from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from florence_operator.kube.client import EVENTS
from florence_operator.runtime.events import BURST, EventRecorder
from tests.operator.fake_apiserver import FakeApiServer

JOB = {
    "apiVersion": "florence.dev/v1alpha1",
    "kind": "FlorenceJob",
    "metadata": {"name": "a", "namespace": "lab", "uid": "u1", "resourceVersion": "7"},
}


def recording(
    test: Callable[[FakeApiServer, EventRecorder, list[datetime]], Awaitable[None]],
) -> None:
    async def main() -> None:
        now = [datetime(2026, 1, 1, tzinfo=UTC)]
        async with FakeApiServer() as server, server.client(tries=1) as client:
            recorder = EventRecorder(client, "florence-operator", lambda: now[0], instance="pod")
            await test(server, recorder, now)

    asyncio.run(main())


async def record(recorder: EventRecorder, message: str = "went on", **extra: Any) -> None:
    job = {**JOB, **extra}
    await recorder.record(job, "Normal", "Recovered", message, action="StartAttempt")


def test_an_event_says_what_happened_to_whom() -> None:
    async def test(server: FakeApiServer, recorder: EventRecorder, now: list[datetime]) -> None:
        await record(recorder)
        (event,) = server.all(EVENTS)
        assert event["regarding"]["uid"] == "u1"
        assert event["metadata"]["namespace"] == "lab"
        assert event["eventTime"] == "2026-01-01T00:00:00.000000Z"
        assert event["reportingController"] == "florence-operator"
        assert event["reportingInstance"] == "pod"
        assert (event["type"], event["reason"]) == ("Normal", "Recovered")
        assert (event["action"], event["note"]) == ("StartAttempt", "went on")

    recording(test)


def test_repetitions_are_one_series_and_cost_little() -> None:
    async def test(server: FakeApiServer, recorder: EventRecorder, now: list[datetime]) -> None:
        for _ in range(256):
            await record(recorder)
        (event,) = server.all(EVENTS)
        assert event["series"]["count"] == 256
        assert len(server.requests) == 1 + 8
        now[0] += timedelta(minutes=2)
        await record(recorder)
        assert server.all(EVENTS)[0]["series"]["count"] == 257
        now[0] += timedelta(minutes=7)
        await record(recorder)
        assert len(server.all(EVENTS)) == 2

    recording(test)


def test_an_object_gets_so_many_events_and_no_more() -> None:
    async def test(server: FakeApiServer, recorder: EventRecorder, now: list[datetime]) -> None:
        for number in range(100):
            await record(recorder, f"message {number}")
        assert len(server.all(EVENTS)) == BURST
        await record(recorder, metadata={**JOB["metadata"], "uid": "u2", "name": "b"})  # type: ignore[dict-item]
        assert len(server.all(EVENTS)) == BURST + 1
        now[0] += timedelta(minutes=10)
        await record(recorder, "later")
        assert len(server.all(EVENTS)) == BURST + 2

    recording(test)


def test_texts_fit_what_the_server_takes() -> None:
    async def test(server: FakeApiServer, recorder: EventRecorder, now: list[datetime]) -> None:
        await recorder.record(JOB, "Warning", "R" * 300, "ü" * 3000, action="A" * 300)
        (event,) = server.all(EVENTS)
        assert len(event["note"].encode()) <= 1024
        assert len(event["reason"]) == len(event["action"]) == 128

    recording(test)


def test_no_trouble_with_events_is_anybody_elses(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: FakeApiServer, recorder: EventRecorder, now: list[datetime]) -> None:
        for code in (403, 500, 0):
            server.fail(code)
            await record(recorder)
        assert server.all(EVENTS) == []
        await record(recorder)
        assert len(server.all(EVENTS)) == 1
        await recorder.record({}, "Normal", "Odd", "no object", action="None")

    with caplog.at_level(logging.WARNING):
        recording(test)
    assert "Recovered" in caplog.text
