from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_operator.kube.client import CONFIG_MAPS
from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.informer import LAST_APPLIED, Informer
from tests.operator.fake_apiserver import FakeApiServer

QUICK = Backoff(first=0.001, longest=0.01)


def config_map(name: str, namespace: str = "lab", **data: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "labels": {"for": data.get("label", "x")}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def names(informer: Informer) -> set[str]:
    return {document["metadata"]["name"] for document in informer.all()}


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that the network brings."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - it is not of this process's making
            await asyncio.sleep(0.002)


@asynccontextmanager
async def following(server: FakeApiServer, **options: Any) -> AsyncIterator[Informer]:
    """An informer that has been filled; how long that takes is for the machine to say."""
    async with server.client(tries=1) as client:
        informer = Informer(client, CONFIG_MAPS, **{"backoff": QUICK, **options})
        task = asyncio.create_task(informer.run())
        try:
            await informer.synced.wait()
            yield informer
        finally:
            assert not task.done()
            task.cancel()
            await asyncio.wait({task})


def test_follows_changes_and_tells_of_them() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for number in range(5):
                server.put(config_map(f"c{number}"))
            by_label = {"for": lambda document: [document["metadata"]["labels"]["for"]]}
            async with following(server, page_size=2, indices=by_label) as informer:
                told: list[tuple[Any, Any]] = []
                informer.add_handler(lambda old, new: 1 / 0)
                informer.add_handler(lambda old, new: told.append((old, new)))
                assert names(informer) == {f"c{n}" for n in range(5)}
                server.put(config_map("new", label="y"))
                await until(lambda: informer.get("lab", "new"))
                assert [d["metadata"]["name"] for d in informer.by_index("for", "y")] == ["new"]
                server.put(config_map("new", label="z"))
                await until(lambda: informer.by_index("for", "z"))
                assert informer.by_index("for", "y") == []
                server.remove(CONFIG_MAPS, "lab", "new")
                await until(lambda: informer.get("lab", "new") is None)
                kinds = [(old is None, new is None) for old, new in told]
                assert kinds == [(True, False), (False, False), (False, True)]

    asyncio.run(main())


def test_what_was_deleted_while_it_did_not_look_is_told_of_after_the_next_list() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for name in "abc":
                server.put(config_map(name))
            async with following(server, page_size=1) as informer:
                gone = []
                informer.add_handler(lambda old, new: new is None and gone.append(old))
                server.fail(503, path="configmaps", times=3)
                server.drop_watches()
                server.remove(CONFIG_MAPS, "lab", "b")
                server.put(config_map("d"))
                server.compact()
                await until(lambda: "d" in names(informer))
                assert names(informer) == {"a", "c", "d"}
                assert [document["metadata"]["name"] for document in gone] == ["b"]

    asyncio.run(main())


@pytest.mark.parametrize("code", [410, 500, 403, 429, 504])
def test_no_error_event_ends_it(code: int) -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            server.put(config_map("a"))
            async with following(server) as informer:
                for number in range(6):
                    await until(lambda: server.watches)
                    server.fail_watches(code, "Injected")
                    await until(lambda: not server.watches or server.watches[0].events.empty())
                    server.put(config_map(f"after{number}"))
                    await until(lambda n=number: informer.get("lab", f"after{n}"))

    asyncio.run(main())


def test_no_answer_ends_it() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for code in (500, 403, 404, 410, 0):
                server.fail(code, times=2)
            async with following(server) as informer:
                server.put(config_map("a"))
                await until(lambda: informer.get("lab", "a"))

    asyncio.run(main())


def test_a_list_whose_token_expires_begins_anew() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for number in range(9):
                server.put(config_map(f"c{number}"))
            pages = 0

            async def compact(request: web.Request) -> None:
                nonlocal pages
                pages += 1
                if pages == 2:
                    server.remove(CONFIG_MAPS, "lab", "c0")
                    server.compact()

            async with following(server, page_size=3) as informer:
                assert names(informer) == {f"c{n}" for n in range(9)}
                await until(lambda: server.watches)
                # The first list is one answer; those that follow are pages of etcd's.
                server.before.append(compact)
                server.fail_watches(410, "Expired")
                await until(lambda: pages > 2 and "c0" not in names(informer))
                assert names(informer) == {f"c{n}" for n in range(1, 9)}

    asyncio.run(main())


def test_a_silent_connection_is_noticed() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, following(server, idle_seconds=0.1) as informer:
            await until(lambda: server.watches)
            server.mute_watches()
            server.put(config_map("a"))
            await until(lambda: informer.get("lab", "a"))

    asyncio.run(main())


def test_a_quiet_kind_is_watched_on_without_a_pause_or_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        slept: list[float] = []

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            await asyncio.sleep(0)

        async with (
            FakeApiServer(bookmark_seconds=60) as server,
            following(server, idle_seconds=0.02, sleep=sleep) as informer,
        ):
            seen = server.counts()["GET"]
            await until(lambda: server.counts()["GET"] > seen + 12)
            server.put(config_map("a"))
            await until(lambda: informer.get("lab", "a"))
        assert not slept

    with caplog.at_level("INFO"):
        asyncio.run(main())
    assert not [record for record in caplog.records if "lost the watch" in record.message]


def test_bookmarks_keep_a_quiet_watch_alive_and_its_version_fresh() -> None:
    async def main() -> None:
        async with (
            FakeApiServer(bookmark_seconds=0.02) as server,
            following(server, idle_seconds=5.0) as informer,
        ):
            await until(lambda: server.watches)
            server._version = 5000
            await until(lambda: informer._versions[""] == "5000")
            server._oldest = 4000
            lists = server.counts()["GET"]
            server.drop_watches()
            await until(lambda: server.counts()["GET"] > lists and server.watches)
            assert server.counts()["GET"] == lists + 1

    asyncio.run(main())


def test_a_server_that_hangs_up_at_once_is_not_asked_in_a_tight_loop() -> None:
    async def main() -> None:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            await asyncio.sleep(0)

        async with (
            FakeApiServer() as server,
            following(server, watch_seconds=0, sleep=sleep, backoff=Backoff()),
        ):
            await until(lambda: len(waits) > 8)
        assert all(wait > 0 for wait in waits)
        assert max(waits[4:]) > 4.0

    asyncio.run(main())


def test_reads_its_own_writes_and_raises_no_dead() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, following(server) as informer:
            await until(lambda: server.watches)
            server.mute_watches()
            first = server.put(config_map("a", x="1"))
            informer.put(first)
            assert informer.get("lab", "a") == first
            second = server.put(config_map("a", x="2"))
            informer.put(second)
            informer.put(first)
            assert informer.get("lab", "a") == second
            server.remove(CONFIG_MAPS, "lab", "a")
            server.compact()
            server.drop_watches()
            await until(lambda: informer.get("lab", "a") is None)
            informer.put(second)
            assert informer.get("lab", "a") is None

    asyncio.run(main())


def test_several_namespaces_are_one_cache() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for namespace in ("one", "two", "three"):
                server.put(config_map(f"in-{namespace}", namespace))
            async with following(server, namespaces=("one", "two")) as informer:
                assert names(informer) == {"in-one", "in-two"}
                await until(lambda: len(server.watches) == 2)
                server.remove(CONFIG_MAPS, "one", "in-one")
                server.put(config_map("more", "two"))
                server.put(config_map("more", "three"))
                await until(lambda: names(informer) == {"in-two", "more"})

    asyncio.run(main())


def test_selectors_are_the_servers_work() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            server.put(config_map("a", label="x"))
            server.put(config_map("b", label="y"))
            async with following(server, labels="for=x") as informer:
                assert names(informer) == {"a"}
                await until(lambda: server.watches)
                server.put(config_map("b", label="x"))
                server.put(config_map("a", label="y"))
                await until(lambda: names(informer) == {"b"})

    asyncio.run(main())


def test_keeps_only_what_it_is_asked_to() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            document = config_map("a")
            document["metadata"]["managedFields"] = [{"manager": "kubectl"}]
            document["metadata"]["annotations"] = {LAST_APPLIED: "{}", "mine": "1"}
            server.put(document)

            def keep(document: dict[str, Any]) -> dict[str, Any]:
                return {"metadata": document["metadata"]}

            async with following(server, transform=keep) as informer:
                found = informer.get("lab", "a")
                assert found is not None
                assert list(found) == ["metadata"]
                assert "managedFields" not in found["metadata"]
                assert found["metadata"]["annotations"] == {"mine": "1"}

    asyncio.run(main())


def test_one_that_tries_nothing_any_more_is_stuck() -> None:
    async def main() -> None:
        now = [0.0]
        async with FakeApiServer() as server, following(server, clock=lambda: now[0]) as informer:
            await until(lambda: server.watches)
            now[0] = 700.0
            assert not informer.stuck
            now[0] = 800.0
            assert informer.stuck

    asyncio.run(main())


def test_a_server_that_was_restored_from_a_backup_is_followed() -> None:
    async def main() -> None:
        async with (
            FakeApiServer(bookmark_seconds=0.01) as server,
            following(server) as informer,
        ):
            server.put(config_map("changed", n="1"))
            server.put(config_map("gone"))
            server.put(config_map("deleted"))
            await until(lambda: len(informer) == 3)
            backup = server.backup()
            for number in range(5):
                server.put(config_map("changed", n=f"later-{number}"))
            server.put(config_map("new"))
            server.remove(CONFIG_MAPS, "lab", "deleted")
            await until(lambda: names(informer) == {"changed", "gone", "new"})
            server.restore(backup)
            server.remove(CONFIG_MAPS, "lab", "gone")
            await until(lambda: names(informer) == {"changed", "deleted"})
            shown = informer.get("lab", "changed")
            assert shown is not None
            assert shown["data"] == {"n": "1"}
            server.put(config_map("changed", n="2"))
            await until(lambda: (informer.get("lab", "changed") or {})["data"] == {"n": "2"})

    asyncio.run(main())


def trouble(
    rng: random.Random, server: FakeApiServer, informer: Informer, name: str, number: str
) -> None:
    """One change of an object, or one thing that goes wrong."""
    happenings: list[Callable[[], object]] = [
        lambda: server.put(config_map(name, n=number)),
        lambda: server.put(config_map(name, n=number)),
        lambda: informer.put(server.put(config_map(name, n=number))),
        lambda: server.remove(CONFIG_MAPS, "lab", name),
        server.compact,
        server.drop_watches,
        server.mute_watches,
        lambda: server.fail_watches(rng.choice([410, 500]), "Injected"),
        lambda: server.fail(rng.choice([0, 410, 500, 503])),
    ]
    rng.choice(happenings)()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_it_agrees_with_the_server_after_any_trouble(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        async with (
            FakeApiServer(bookmark_seconds=0.01) as server,
            following(server, page_size=3, idle_seconds=0.2) as informer,
        ):
            for number in range(60):
                trouble(rng, server, informer, f"c{rng.randrange(8)}", str(number))
                await asyncio.sleep(rng.choice([0, 0, 0.002]))

            def agrees() -> bool:
                there = {d["metadata"]["name"]: d for d in server.all(CONFIG_MAPS)}
                return {d["metadata"]["name"]: d for d in informer.all()} == there

            await until(agrees)

    asyncio.run(main())


@pytest.mark.slow
def test_ten_thousand_objects_need_little_memory() -> None:
    async def main() -> None:
        async with FakeApiServer() as server:
            for number in range(10_000):
                document = config_map(f"c{number}", x="y" * 400)
                fields = {f"f:{n}": {} for n in range(40)}
                document["metadata"]["managedFields"] = [{"fieldsV1": fields}]
                server.put(document)
            tracemalloc.start()
            async with following(server) as informer:
                assert len(informer) == 10_000
                held, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert held < 40 * 2**20
        assert peak < 80 * 2**20

    asyncio.run(main())
