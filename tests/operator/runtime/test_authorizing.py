"""Who may read the metrics, over a real socket and an API server that can be away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import aiohttp
from aiohttp import web

from florence_operator.kube.client import Client
from florence_operator.kube.errors import ApiError
from florence_operator.runtime.authorizing import (
    ALLOWED_SECONDS,
    OUTAGE_SECONDS,
    REFUSED_SECONDS,
    REVIEWS_AT_ONCE,
    Authorizer,
)
from florence_operator.runtime.webserver import WebServer

Get = Callable[..., Awaitable[tuple[int, str]]]


class Api:
    """Knows two tokens: ``prometheus``, who may, and ``somebody``, who may not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False
        self.now = 0.0

    def unlimited(self) -> Api:
        return self

    async def request(self, method: str, path: str, *, body: Any) -> dict[str, Any]:
        self.asked.append(body["kind"])
        if self.down:
            raise ApiError(0, "Unreachable", "no answer")
        if body["kind"] == "TokenReview":
            token = body["spec"]["token"]
            known = token in ("prometheus", "somebody")
            user = {"username": token, "groups": ["system:authenticated"], "uid": "7"}
            return {"status": {"authenticated": known, "user": user}}
        spec = body["spec"]
        assert spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}
        assert (spec["groups"], spec["uid"]) == (["system:authenticated"], "7")
        return {"status": {"allowed": spec["user"] == "prometheus"}}


def served(check: Callable[[Api, Get], Awaitable[None]]) -> None:
    async def main() -> None:
        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text="up 1")

        api = Api()
        authorizer = Authorizer(cast(Client, api), clock=lambda: api.now)
        routes = [authorizer.guarded(("GET", "/metrics", metrics))]
        async with (
            WebServer(routes, port=0, host="127.0.0.1") as server,
            aiohttp.ClientSession() as session,
        ):

            async def get(token: str | None = None, kind: str = "Bearer") -> tuple[int, str]:
                headers = {"Authorization": f"{kind} {token}"} if token else {}
                url = f"http://127.0.0.1:{server.port}/metrics"
                async with session.get(url, headers=headers) as answer:
                    return answer.status, await answer.text()

            await check(api, get)

    asyncio.run(main())


def test_only_who_may_get_the_path_reads_it() -> None:
    async def check(api: Api, get: Get) -> None:
        assert await get() == (401, "a bearer token is needed\n")
        assert (await get("prometheus", "Basic"))[0] == 401
        assert not api.asked
        assert await get("prometheus") == (200, "up 1")
        assert await get("nonsense") == (401, "the token is not valid\n")
        status, text = await get("somebody")
        assert status == 403
        assert "'somebody' may not get /metrics" in text

    served(check)


def test_the_api_server_is_not_asked_at_every_scrape() -> None:
    async def check(api: Api, get: Get) -> None:
        for _ in range(5):
            assert (await get("prometheus"))[0] == 200
            assert (await get("nonsense"))[0] == 401
        assert api.asked == ["TokenReview", "SubjectAccessReview", "TokenReview"]
        api.now += REFUSED_SECONDS + 1
        assert (await get("nonsense"))[0] == 401
        assert len(api.asked) == 4
        api.now += ALLOWED_SECONDS
        assert (await get("prometheus"))[0] == 200
        assert len(api.asked) == 6

    served(check)


def test_metrics_are_read_on_while_the_api_server_is_away() -> None:
    async def check(api: Api, get: Get) -> None:
        assert (await get("prometheus"))[0] == 200
        api.down = True
        api.now += ALLOWED_SECONDS + 1
        assert (await get("prometheus"))[0] == 200
        assert (await get("another"))[0] == 503
        api.now += OUTAGE_SECONDS
        assert (await get("prometheus"))[0] == 503

    served(check)


def test_nonsense_costs_the_api_server_little() -> None:
    async def check(api: Api, get: Get) -> None:
        assert (await get("prometheus"))[0] == 200
        answers = {(await get(f"nonsense-{number}"))[0] for number in range(200)}
        assert answers == {401, 429}
        assert len(api.asked) <= REVIEWS_AT_ONCE + 1
        assert (await get("prometheus"))[0] == 200

    served(check)
