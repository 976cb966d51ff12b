from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.webserver import (
    AdmissionAnswer,
    WebServer,
    health_routes,
    review_route,
)


def review(uid: Any = "u1", **extra: Any) -> dict[str, Any]:
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {"uid": uid, "object": {"spec": {}}, **extra},
    }


def post(validate: Any, body: bytes) -> tuple[int, str]:
    async def main() -> tuple[int, str]:
        routes = [review_route("/validate", validate)]
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


def test_health_readiness_and_metrics() -> None:
    problems: list[str] = []

    async def main() -> None:
        metrics = Metrics(CollectorRegistry())
        metrics.request("GET", "200")
        routes = health_routes(lambda: [], lambda: problems, metrics)
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
