"""Following jobs through everything that happens to a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from florence_operator.kube.client import ApiError
from florence_operator.kube.resources import FLORENCE_JOBS
from florencectl.cluster.following import verdict
from florencectl.cluster.watching import Change, changes
from tests.cli.cluster_objects import job, stage
from tests.operator.fake_apiserver import FakeApiServer

Next = Callable[[], Awaitable[list[tuple[str, str]]]]


async def no_pause(_: float) -> None:
    await asyncio.sleep(0)


def named(name: str) -> dict[str, Any]:
    document = job()
    document["metadata"]["name"] = name
    document["metadata"].pop("uid")
    return document


def watched(story: Callable[[FakeApiServer, Next], Awaitable[None]]) -> None:
    async def run() -> None:
        async with FakeApiServer() as server, server.client(tries=1) as client:
            server.put(named("a"))
            following = changes(client, "team", sleep=no_pause)

            async def following_names() -> list[tuple[str, str]]:
                batch: list[Change] = await asyncio.wait_for(anext(following), 120)
                return [(kind, document["metadata"]["name"]) for kind, document in batch]

            assert await following_names() == [("ADDED", "a")]
            await story(server, following_names)

    asyncio.run(run())


def test_changes_are_told_once_each() -> None:
    async def story(server: FakeApiServer, news: Next) -> None:
        server.put(named("b"))
        assert await news() == [("ADDED", "b")]
        server.remove(FLORENCE_JOBS, "team", "a")
        assert await news() == [("DELETED", "a")]

    watched(story)


def test_a_dropped_connection_loses_nothing_and_repeats_nothing() -> None:
    async def story(server: FakeApiServer, news: Next) -> None:
        server.put(named("b"))
        assert await news() == [("ADDED", "b")]
        server.drop_watches()
        server.put(named("c"))
        assert await news() == [("ADDED", "c")]

    watched(story)


def test_a_server_that_forgot_is_listed_again_and_deletions_are_told() -> None:
    async def story(server: FakeApiServer, news: Next) -> None:
        server.fail(410, "Expired", path="florencejobs", times=1)
        server.remove(FLORENCE_JOBS, "team", "a")
        server.put(named("b"))
        server.compact()
        assert await news() == [("DELETED", "a"), ("ADDED", "b")]

    watched(story)


def test_a_refusal_ends_it() -> None:
    async def story(server: FakeApiServer, news: Next) -> None:
        server.fail(403, "Forbidden", path="florencejobs", times=5)
        with pytest.raises(ApiError):
            await news()

    watched(story)


def test_passing_failures_are_outlived() -> None:
    async def story(server: FakeApiServer, news: Next) -> None:
        server.fail(503, "Unavailable", path="florencejobs", times=3)
        server.put(named("b"))
        assert await news() == [("ADDED", "b")]

    watched(story)


@pytest.mark.parametrize(
    ("phase", "goal", "code"),
    [
        ("Running", ("Succeeded",), None),
        ("Succeeded", ("Succeeded",), 0),
        ("Failed", ("Succeeded",), 1),
        ("Failed", ("Succeeded", "Failed"), 1),
        ("Succeeded", ("Running",), 1),
        ("Running", ("Running",), 0),
        ("Suspended", ("Running",), None),
    ],
)
def test_the_verdict_of_a_wait(phase: str, goal: tuple[Any, ...], code: int | None) -> None:
    document = job(phase, stage("mixed", phase))
    assert verdict(document, goal) == code
    document["metadata"]["generation"] = 2  # the operator has not seen the newest spec
    assert verdict(document, goal) is None
