from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.review import AdmissionAnswer
from florence_operator.runtime.reviewer import MOST_REVIEWS, PATIENCE_SECONDS, Reviewer
from florence_operator.runtime.webserver import WebServer, health_routes, metrics_route


def review(uid: Any = "u1", **extra: Any) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": uid, "object": {"spec": {}}, **extra},
    }


def post(validate: Any, body: bytes) -> tuple[int, str]:
    async def main() -> tuple[int, str]:
        routes = [Reviewer(validate).route("/validate")]
        async with (
            WebServer(routes, port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{server.port}/validate", data=body) as answer,
        ):
            return answer.status, await answer.text()

    return asyncio.run(main())


def test_a_review_is_answered() -> None:
    seen: list[dict[str, Any]] = []

    def validate(request: dict[str, Any]) -> AdmissionAnswer:
        seen.append(request)
        return AdmissionAnswer(False, "spec.stages[0]: no", ("a" * 300, "old image"))

    status, text = post(validate, json.dumps(review(operation="CREATE")).encode())
    assert status == 200
    assert seen[0]["operation"] == "CREATE"
    response = json.loads(text)["response"]
    assert response["uid"] == "u1"
    assert response["allowed"] is False
    assert response["status"]["message"] == "spec.stages[0]: no"
    assert [len(warning) for warning in response["warnings"]] == [256, 9]


def test_what_is_allowed_says_no_more() -> None:
    status, text = post(lambda request: AdmissionAnswer(True), json.dumps(review()).encode())
    assert status == 200
    assert json.loads(text)["response"] == {"uid": "u1", "allowed": True}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"{}",
        json.dumps(review(uid=7)).encode(),
        json.dumps({**review(), "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
        json.dumps({**review(), "request": None}).encode(),
    ],
)
def test_what_is_no_review_is_refused(body: bytes) -> None:
    status, _ = post(lambda request: 1 / 0, body)
    assert status == 400


def test_a_bug_is_no_permission() -> None:
    status, text = post(lambda request: 1 / 0, json.dumps(review()).encode())
    assert status == 500
    assert "division" not in text


def test_bodies_have_a_limit() -> None:
    big = json.dumps(review(filler="x" * (3 * 2**20))).encode()
    assert post(lambda request: AdmissionAnswer(True), big)[0] == 413
    good = json.dumps(review(filler="x" * (3 * 2**20 - 1000))).encode()
    assert post(lambda request: AdmissionAnswer(True), good)[0] == 200


def test_a_review_that_takes_long_holds_up_nothing_else() -> None:
    """What blocks the event loop takes the leader's lease with it."""
    asked = threading.Event()

    def validate(request: dict[str, Any]) -> AdmissionAnswer:
        return AdmissionAnswer(asked.wait(60))

    async def main() -> None:
        health = health_routes(lambda: [], lambda: [])
        routes = [Reviewer(validate).route("/validate"), *health]
        async with (
            WebServer(routes, port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session,
        ):
            reviewed = asyncio.create_task(session.post("/validate", json=review()))
            async with session.get("/healthz") as answer:
                assert answer.status == 200
            asked.set()
            async with await reviewed as answer:
                assert (await answer.json())["response"]["allowed"] is True

    asyncio.run(main())


class Clock:
    """A clock that tells when it is asked: at each review's arrival and beginning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._asked = threading.Semaphore(0)

    def __call__(self) -> float:
        self._asked.release()
        return self.now

    async def asked(self, times: int) -> None:
        for _ in range(times):
            assert await asyncio.to_thread(self._asked.acquire, timeout=60)


def test_a_review_that_nobody_waits_for_any_more_is_not_begun() -> None:
    clock, go_on = Clock(), threading.Event()
    begun: list[str] = []

    def validate(request: dict[str, Any]) -> AdmissionAnswer:
        begun.append(request["uid"])
        return AdmissionAnswer(go_on.wait(60))

    async def main() -> None:
        routes = [Reviewer(validate, clock=clock).route("/validate")]
        async with (
            WebServer(routes, port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session,
        ):
            posts = [asyncio.create_task(session.post("/validate", json=review("first")))]
            await clock.asked(2)
            posts.append(asyncio.create_task(session.post("/validate", json=review("late"))))
            await clock.asked(1)
            clock.now += PATIENCE_SECONDS + 1
            go_on.set()
            answers = await asyncio.gather(*posts)
            assert [answer.status for answer in answers] == [200, 503]
            assert answers[1].headers["Retry-After"] == "1"
            assert begun == ["first"]

    asyncio.run(main())


def test_one_review_too_many_is_sent_away() -> None:
    clock, go_on = Clock(), threading.Event()

    async def main() -> None:
        reviewer = Reviewer(lambda request: AdmissionAnswer(go_on.wait(60)), clock=clock)
        async with (
            WebServer([reviewer.route("/validate")], port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session,
        ):
            posts = [
                asyncio.create_task(session.post("/validate", json=review()))
                for _ in range(MOST_REVIEWS)
            ]
            await clock.asked(MOST_REVIEWS + 1)
            async with session.post("/validate", json=review()) as answer:
                assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            go_on.set()
            assert {answer.status for answer in await asyncio.gather(*posts)} == {200}

    asyncio.run(main())


def test_health_readiness_and_metrics() -> None:
    problems: list[str] = []

    async def main() -> None:
        metrics = Metrics(CollectorRegistry())
        metrics.request("GET", "200")
        routes = [*health_routes(lambda: [], lambda: problems), metrics_route(metrics)]
        async with (
            WebServer(routes, port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session,
        ):

            async def get(path: str) -> tuple[int, str]:
                async with session.get(path) as answer:
                    return answer.status, await answer.text()

            assert await get("/healthz") == (200, "ok\n")
            assert await get("/readyz") == (200, "ok\n")
            problems.append("no certificate")
            assert await get("/readyz") == (503, "no certificate\n")
            status, text = await get("/metrics")
            assert status == 200
            assert 'rest_client_requests_total{code="200",method="GET"} 1.0' in text

    asyncio.run(main())
