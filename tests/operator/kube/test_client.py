from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from kubernetes_asyncio.client import Configuration

from florence_operator.kube.client import CONFIG_MAPS, FLORENCE_JOBS, PODS, ApiError, Client
from florence_operator.kube.kubeconfig import Access
from florence_operator.runtime.leader import LeadershipLostError
from tests.operator.fake_apiserver import FakeApiServer


def config_map(name: str, data: dict[str, str] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "lab"},
        "data": data or {},
    }


def in_cluster(
    test: Callable[[FakeApiServer, Client], Awaitable[None]], **options: Any
) -> list[float]:
    """Runs a test with a server and a client that does not really wait; gives its waits."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def main() -> None:
        async with FakeApiServer() as server, server.client(sleep=sleep, **options) as client:
            await test(server, client)

    asyncio.run(main())
    return waits


@asynccontextmanager
async def serving(handler: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def client_of(url: str) -> Client:
    return Client(Access(Configuration(host=url)), tries=1)


def test_writes_and_reads_objects() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        await client.create(config_map("a", {"x": "1"}))
        assert (await client.apply(config_map("a", {"y": "2"})))["data"] == {"x": "1", "y": "2"}
        assert (await client.apply(config_map("a", {"z": "3"})))["data"] == {"x": "1", "z": "3"}
        changed = await client.patch(CONFIG_MAPS, "a", "lab", {"data": {"x": None}})
        assert changed["data"] == {"z": "3"}
        patch = [{"op": "add", "path": "/data/w", "value": "4"}]
        assert (await client.patch(CONFIG_MAPS, "a", "lab", patch, kind="json"))["data"]["w"] == "4"
        newest = await client.get(CONFIG_MAPS, "a", "lab")
        assert (await client.replace({**newest, "data": {}}))["data"] == {}
        with pytest.raises(ApiError) as refusal:
            await client.replace({**newest, "data": {"late": "1"}})
        assert refusal.value.conflict
        assert not refusal.value.already_exists
        await client.delete(CONFIG_MAPS, "a", "lab", uid=newest["metadata"]["uid"])
        with pytest.raises(ApiError) as refusal:
            await client.get(CONFIG_MAPS, "a", "lab")
        assert refusal.value.not_found
        assert "GET /api/v1/namespaces/lab/configmaps/a" in str(refusal.value)

    in_cluster(test)


def test_refusals_carry_their_reason() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        await client.create(config_map("a"))
        with pytest.raises(ApiError) as refusal:
            await client.create(config_map("a"))
        assert refusal.value.already_exists
        with pytest.raises(ApiError) as refusal:
            await client.delete(CONFIG_MAPS, "a", "lab", uid="another")
        assert refusal.value.conflict
        for code, name in ((403, "forbidden"), (410, "gone"), (401, "unauthorized")):
            server.fail(code)
            with pytest.raises(ApiError) as refusal:
                await client.get(CONFIG_MAPS, "a", "lab")
            assert getattr(refusal.value, name)

    assert in_cluster(test) == []


def test_a_dry_run_changes_nothing() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        assert (await client.create(config_map("a"), dry_run=True))["metadata"]["uid"]
        await client.apply(config_map("a"), dry_run=True)
        assert server.all(CONFIG_MAPS) == []
        await client.create(config_map("a"))
        await client.delete(CONFIG_MAPS, "a", "lab", dry_run=True)
        assert len(server.all(CONFIG_MAPS)) == 1

    in_cluster(test)


def test_status_is_written_apart_from_the_rest() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        job = server.put(
            {
                "apiVersion": "florence.dev/v1alpha1",
                "kind": "FlorenceJob",
                "metadata": {"name": "j", "namespace": "lab"},
                "spec": {"image": "a"},
            }
        )
        wanted = {**job, "spec": {"image": "b"}, "status": {"phase": "Running"}}
        answer = await client.replace_status(FLORENCE_JOBS, wanted)
        assert answer["spec"] == {"image": "a"}
        assert answer["status"] == {"phase": "Running"}
        assert answer["metadata"]["generation"] == 1
        with pytest.raises(ApiError) as refusal:
            await client.replace_status(FLORENCE_JOBS, wanted)
        assert refusal.value.conflict

    in_cluster(test)


@pytest.mark.parametrize("size", [0, 1, 499, 500, 501, 1234])
def test_lists_have_all_pages(size: int) -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        for number in range(size):
            server.put(config_map(f"c{number}"))
        items, version = await client.list(CONFIG_MAPS)
        assert {item["metadata"]["name"] for item in items} == {f"c{n}" for n in range(size)}
        assert int(version) == 100 + size
        assert all(item["kind"] == "ConfigMap" for item in items)

    in_cluster(test)


def test_a_list_begins_anew_when_its_token_has_expired() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        for number in range(10):
            server.put(config_map(f"c{number}"))
        pages = 0

        async def compact(request: web.Request) -> None:
            nonlocal pages
            pages += 1
            if pages == 2:
                server.put(config_map("late"))
                server.compact()

        server.before.append(compact)
        items, _ = await client.list(CONFIG_MAPS, limit=3)
        assert len(items) == 11

    in_cluster(test)


def test_a_list_that_expires_again_and_again_ends_as_one_page() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        for number in range(10):
            server.put(config_map(f"c{number}"))

        async def compact(request: web.Request) -> None:
            server.put(config_map("beat", {"n": str(len(server.requests))}))
            server.compact()

        server.before.append(compact)
        items, _ = await client.list(CONFIG_MAPS, limit=3)
        assert len(items) == 11

    in_cluster(test)


@pytest.mark.parametrize("method", ["GET", "POST", "PATCH", "DELETE"])
def test_too_many_requests_is_waited_for_whatever_the_method(method: str) -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.put(config_map("a"))
        server.fail(429, "TooManyRequests", retry_after=3, times=2)
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "GET": lambda: client.get(CONFIG_MAPS, "a", "lab"),
            "POST": lambda: client.create(config_map("b")),
            "PATCH": lambda: client.patch(CONFIG_MAPS, "a", "lab", {}),
            "DELETE": lambda: client.delete(CONFIG_MAPS, "a", "lab"),
        }
        await calls[method]()
        assert server.counts() == {method: 3}

    assert in_cluster(test) == [3.0, 3.0]


def test_a_servers_wish_for_patience_is_bounded_and_so_are_tries() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.fail(429, retry_after=86_400, times=100)
        with pytest.raises(ApiError) as refusal:
            await client.get(CONFIG_MAPS, "a", "lab")
        assert refusal.value.status == 429
        assert refusal.value.retry_after == 86_400

    assert in_cluster(test) == [30.0, 30.0, 30.0]


@pytest.mark.parametrize("code", [0, 502, 503, 504])
def test_lost_answers_are_asked_for_again_only_where_that_does_no_harm(code: int) -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.fail(code, method="PATCH", after=True)
        answer = await client.apply(config_map("a", {"x": "1"}))
        assert answer["data"] == {"x": "1"}
        assert server.counts() == {"PATCH": 2}
        server.fail(code, method="POST", after=True)
        with pytest.raises(ApiError):
            await client.create(config_map("b"))
        assert server.counts()["POST"] == 1
        assert len(server.all(CONFIG_MAPS)) == 2

    in_cluster(test)


def test_a_json_patch_is_not_repeated() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.put(config_map("a", {"x": "1"}))
        server.fail(503, after=True)
        patch = [
            {"op": "test", "path": "/data/x", "value": "1"},
            {"op": "replace", "path": "/data/x", "value": "2"},
        ]
        with pytest.raises(ApiError) as refusal:
            await client.patch(CONFIG_MAPS, "a", "lab", patch, kind="json")
        assert refusal.value.status == 503

    in_cluster(test)


def test_an_internal_error_is_not_repeated_unless_the_server_says_when() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.put(config_map("a"))
        server.fail(500)
        with pytest.raises(ApiError):
            await client.get(CONFIG_MAPS, "a", "lab")
        server.fail(500, retry_after=1)
        await client.get(CONFIG_MAPS, "a", "lab")

    assert in_cluster(test) == [1.0]


def test_a_server_that_does_not_answer_is_given_up() -> None:
    async def main() -> None:
        release = asyncio.Event()

        async def never(request: web.Request) -> web.Response:
            await release.wait()
            return web.Response()

        async with serving(never) as url:
            access = Access(Configuration(host=url))
            async with Client(access, timeout=0.05, tries=1) as client:
                with pytest.raises(ApiError) as refusal:
                    await client.get(CONFIG_MAPS, "a", "lab")
            release.set()
        assert refusal.value.unreachable
        async with Client(access, tries=1) as client:
            with pytest.raises(ApiError) as refusal:
                await client.get(CONFIG_MAPS, "a", "lab")
        assert refusal.value.unreachable
        assert url in str(refusal.value)

    asyncio.run(main())


def test_answers_that_are_no_json_are_errors() -> None:
    async def main() -> None:
        async def page(request: web.Request) -> web.Response:
            return web.Response(status=int(request.path[-3:]), text="<html>gateway</html>")

        async with serving(page) as url, client_of(url) as client:
            for code in (200, 403, 502):
                with pytest.raises(ApiError) as refusal:
                    await client.request("GET", f"/{code}")
                assert refusal.value.status == (0 if code == 200 else code)

    asyncio.run(main())


def test_refused_credentials_are_read_again_once() -> None:
    async def main() -> None:
        seen = []

        async def check(request: web.Request) -> web.Response:
            seen.append(request.headers.get("Authorization"))
            return web.json_response({}, status=200 if seen[-1] == "Bearer new" else 401)

        async with serving(check) as url:

            async def reload() -> Configuration:
                return Configuration(host=url, api_key={"BearerToken": "Bearer new"})

            old = Configuration(host=url, api_key={"BearerToken": "Bearer old"})
            async with Client(Access(old, reload=reload)) as client:
                await client.request("GET", "/x")
                await client.request("GET", "/x")
        assert seen == ["Bearer old", "Bearer new", "Bearer new"]

    asyncio.run(main())


def test_watch_lines_may_be_long() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        big = "ä" * 3_000_000
        server.put(config_map("before"))
        events = client.watch(CONFIG_MAPS, resource_version="100")
        assert (await anext(events))[0] == "ADDED"
        server.put(config_map("big", {"x": big}))
        server.put(config_map("after"))
        kind, document = await anext(events)
        assert (kind, document["data"]["x"]) == ("ADDED", big)
        assert (await anext(events))[1]["metadata"]["name"] == "after"
        await events.aclose()

    in_cluster(test)


def test_watches_end_with_typed_errors() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.put(config_map("a"))
        server.compact()
        with pytest.raises(ApiError) as refusal:
            await anext(client.watch(CONFIG_MAPS, resource_version="1"))
        assert refusal.value.gone

        silent = client.watch(CONFIG_MAPS, resource_version="101", idle_seconds=0.05)
        with pytest.raises(ApiError) as refusal:
            await anext(silent)
        assert refusal.value.unreachable

    in_cluster(test)


def test_logs_are_read_line_by_line() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        server.logs["lab", "pod"] = "one\ntwo\n\nthree"
        lines = [line async for line in client.logs("pod", "lab", container="node")]
        assert lines == ["one", "two", "three"]

    in_cluster(test)


def test_requests_are_counted_and_told_of() -> None:
    told: list[tuple[str, str]] = []

    async def test(server: FakeApiServer, client: Client) -> None:
        await client.create(config_map("a"))
        server.fail(0, times=9)
        with pytest.raises(ApiError):
            await client.unlimited().get(PODS, "a", "lab")
        assert client.counts == {"POST": 1, "GET": 2}

    in_cluster(test, tries=2, on_request=lambda method, code: told.append((method, code)))
    assert told == [("POST", "201"), ("GET", "<error>"), ("GET", "<error>")]


def test_a_guard_stops_writes_and_no_reads() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        def guard() -> None:
            raise LeadershipLostError("not the leader")

        other = client.guarded(guard)
        await other.list(CONFIG_MAPS)
        with pytest.raises(LeadershipLostError):
            await other.create(config_map("a"))
        await client.create(config_map("a"))
        assert server.counts()["POST"] == 1

    assert in_cluster(test) == []


def test_bodies_are_what_kubernetes_expects() -> None:
    async def main() -> None:
        seen: list[tuple[str, str, Any]] = []

        async def record(request: web.Request) -> web.Response:
            body = json.loads(await request.read())
            seen.append((request.method, request.headers["Content-Type"], body))
            assert request.query.get("limit") is None
            return web.json_response({})

        async with serving(record) as url, client_of(url) as client:
            await client.delete(PODS, "p", "lab", uid="u", propagation="Foreground")
            await client.apply(config_map("a"), force=False)
        assert seen[0][2] == {
            "propagationPolicy": "Foreground",
            "preconditions": {"uid": "u"},
        }
        assert seen[1][1] == "application/apply-patch+yaml"

    asyncio.run(main())
