"""Which kinds of children are found: at the start, and when a CRD appears later."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from florence_operator.backends.choice import Installed
from florence_operator.kube.client import Client
from florence_operator.kube.resources import TRAIN_JOBS
from florence_operator.observe.caches import Caches
from florence_operator.observe.children import Children
from florence_operator.replica import installed_kinds, make_caches
from florence_operator.settings import OperatorConfiguration
from tests.operator.fake_apiserver import FakeApiServer

BOTH = {"kubeflow.org": ["v1"], "trainer.kubeflow.org": ["v1alpha1"]}
KUEUE = {"kueue.x-k8s.io": ["v1beta2"]}


def found(groups: dict[str, list[str]], prepare: Callable[[FakeApiServer], None]) -> Caches:
    async def main() -> Caches:
        async with FakeApiServer() as server, server.client() as client:
            server.groups = groups
            prepare(server)
            return await make_caches(client, OperatorConfiguration())

    return asyncio.run(main())


def nothing(server: FakeApiServer) -> None:
    pass


def test_the_kinds_that_are_served_are_followed_in_the_order_of_choice() -> None:
    assert found(BOTH, nothing).children.installed.served == ("PyTorchJob", "TrainJob")
    only = {"trainer.kubeflow.org": ["v1alpha1"]}
    assert found(only, nothing).children.installed.served == ("TrainJob",)
    assert found({"kubeflow.org": ["v1"]}, nothing).children.installed.served == ("PyTorchJob",)
    assert found({}, nothing).children.installed.served == ()
    # Of a version that this operator does not understand nothing can be made.
    assert found({"trainer.kubeflow.org": ["v3"]}, nothing).children.installed.served == ()


def test_what_may_not_be_listed_is_as_if_it_were_not_there() -> None:
    """An operator with the rights of an older release must not wait for such a cache for ever."""
    caches = found(BOTH, lambda server: server.fail(403, "Forbidden", path="trainjobs"))
    assert caches.children.installed.served == ("PyTorchJob",)


def kueue_takes(*kinds: str) -> Callable[[FakeApiServer], None]:
    """Its webhook suspends what names a queue, of these kinds."""

    async def webhook(request: web.Request) -> web.StreamResponse | None:
        if request.method != "POST" or "pytorchjobs" not in request.path:
            return None
        assert request.query["dryRun"] == "All"
        document = await request.json()
        assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
        document["spec"]["runPolicy"] = {"suspend": "PyTorchJob" in kinds}
        return web.json_response(document, status=201)

    return lambda server: server.before.append(webhook)


def test_whether_kueue_takes_pytorchjobs_is_tried() -> None:
    old = found({**BOTH, **KUEUE}, kueue_takes("PyTorchJob")).children.installed
    assert old == Installed(served=("PyTorchJob", "TrainJob"))
    new = found({**BOTH, **KUEUE}, kueue_takes("TrainJob")).children.installed
    assert new.unqueued == {"PyTorchJob"}
    # Without Kueue, and without a choice, nothing is tried; and a failure tells nothing.
    for groups in (BOTH, {"kubeflow.org": ["v1"], **KUEUE}):
        refused = found(groups, lambda server: server.fail(500, method="POST"))
        assert refused.children.installed.unqueued == frozenset()
    unknown = found({**BOTH, **KUEUE}, lambda server: server.fail(403, "No", method="POST"))
    assert unknown.children.installed.unqueued == frozenset()


def train_job(name: str) -> dict[str, Any]:
    labels = {"florence.dev/job": "j", "florence.dev/stage": "s", "florence.dev/attempt": "1"}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {"name": name, "namespace": "ns", "labels": labels},
    }


def test_a_crd_that_appears_later_is_taken_up_when_its_cache_is_filled() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            children, changes = Children(), asyncio.Event()
            looks: asyncio.Queue[None] = asyncio.Queue()

            async def sleep(_: float) -> None:
                await looks.get()

            kinds = _kinds(client, children, changes.set, sleep)
            await kinds.find()
            told: asyncio.Queue[str] = asyncio.Queue()
            children.add_handler(lambda old, new: told.put_nowait((new or old or {})["kind"]))
            server.put(train_job("before"))
            running = asyncio.create_task(kinds.run())
            try:
                looks.put_nowait(None)
                server.groups = BOTH
                looks.put_nowait(None)
                async with asyncio.timeout(60):
                    await changes.wait()
                assert children.installed.served == ("PyTorchJob", "TrainJob")
                # What was there before is known at once, and so is what comes later.
                assert children.get("TrainJob", "ns", "before")
                assert told.empty()
                server.put(train_job("after"))
                async with asyncio.timeout(60):
                    assert await told.get() == "TrainJob"
                assert children.by_index("job", "ns/j")
                assert not children.get("PyTorchJob", "ns", "after")
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            assert server.all(TRAIN_JOBS)

    asyncio.run(main())


def _kinds(
    client: Client,
    children: Children,
    changed: Callable[[], None],
    sleep: Callable[[float], Awaitable[None]],
) -> Any:
    kinds = installed_kinds(client, OperatorConfiguration(), children, kueue=False, changed=changed)
    kinds._sleep = sleep
    return kinds
