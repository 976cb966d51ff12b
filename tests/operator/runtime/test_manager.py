from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from florence_operator.kube.client import CONFIG_MAPS, LEASES, Client
from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.controller import Controller, Key, Result
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.leader import Leader, Timing
from florence_operator.runtime.manager import Manager
from florence_operator.runtime.store import key_of
from florence_operator.runtime.webserver import WebServer, health_routes
from tests.operator.fake_apiserver import FakeApiServer

# Nobody loses the lease because the machine has other things to do.
TIMING = Timing(lease_duration=60.0, renew_deadline=40.0, retry_period=0.05)
HASTY = Timing(lease_duration=4.0, renew_deadline=2.0, retry_period=0.05)
CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "a", "namespace": "lab"},
}
ROOT = Path(__file__).parents[3]


async def until(condition: Callable[[], object]) -> None:
    """Waits for something that the network brings."""
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - it is not of this process's making
            await asyncio.sleep(0.002)


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


class Replica:
    """A whole process of the operator, in this one."""

    def __init__(
        self,
        client: Client,
        name: str,
        reconcile: Any,
        fit: asyncio.Event | None = None,
        timing: Timing = TIMING,
        **options: Any,
    ) -> None:
        self.informer = Informer(client, CONFIG_MAPS, backoff=Backoff(first=0.01, longest=0.02))
        self.leader = Leader(client, namespace="lab", name="l", identity=name, timing=timing)
        self.controller = Controller("maps", reconcile)
        self.informer.add_handler(
            lambda old, new: self.controller.enqueue(key_of(new or old or {}))
        )
        self.problems: list[str] = []
        self.health = WebServer(
            health_routes(lambda: self.manager.unhealthy(), lambda: self.manager.unready()),
            port=0,
            host="127.0.0.1",
        )
        self.everywhere = WebServer([], port=0, host="127.0.0.1")
        self.filled: list[bool] = []
        self.manager = Manager(
            filled=lambda: self.filled.append(self.informer.synced.is_set()),
            informers=[self.informer],
            servers=[self.everywhere],
            early=[self.health],
            leader=self.leader,
            controllers=[self.controller],
            ready=lambda: self.problems,
            fit_to_lead=fit.wait if fit else None,
            **options,
        )
        self.task = asyncio.create_task(self.manager.run())

    async def probe(self, path: str) -> tuple[int, str]:
        return await get(f"http://127.0.0.1:{self.health.port}{path}")


def running(test: Callable[[FakeApiServer, Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client(tries=1) as client:
            await asyncio.wait_for(test(server, client), 300)

    asyncio.run(main())


def test_one_replica_works_and_both_serve() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        seen: list[tuple[str, Key]] = []

        def reconciler(name: str) -> Any:
            async def reconcile(key: Key) -> Result:
                seen.append((name, key))
                return Result()

            return reconcile

        server.put(CONFIG_MAP)
        one = Replica(client, "one", reconciler("one"))
        await until(lambda: seen)
        two = Replica(client, "two", reconciler("two"))
        await until(lambda: two.manager.unready() == [])
        assert await two.probe("/readyz") == (200, "ok\n")
        assert await two.probe("/healthz") == (200, "ok\n")
        two.problems.append("no certificate")
        assert await two.probe("/readyz") == (503, "no certificate\n")
        assert (await get(f"http://127.0.0.1:{two.everywhere.port}/"))[0] == 404
        assert {name for name, _ in seen} == {"one"}
        one.manager.stop()
        assert await one.task == 0
        await until(lambda: ("two", Key("lab", "a")) in seen)
        two.manager.stop()
        assert await two.task == 0
        lease = server.get(LEASES, "lab", "l")
        assert lease is not None
        assert lease["spec"]["holderIdentity"] == ""

    running(test)


def test_a_replica_that_is_not_fit_to_lead_serves_and_lets_another_lead() -> None:
    """What a leader without certificates starts could never report to anybody."""

    async def test(server: FakeApiServer, client: Client) -> None:
        async def reconcile(key: Key) -> Result:
            return Result()

        fit = asyncio.Event()
        one = Replica(client, "one", reconcile, fit)
        await until(lambda: one.manager.unready() == [])
        two = Replica(client, "two", reconcile)
        await until(lambda: two.leader.leads)
        two.manager.stop()
        assert await two.task == 0
        assert not one.leader.leads
        fit.set()
        await until(lambda: one.leader.leads)
        one.manager.stop()
        assert await one.task == 0
        three = Replica(client, "three", reconcile, asyncio.Event())
        await until(lambda: three.manager.unready() == [])
        three.manager.stop()
        assert await three.task == 0

    running(test)


@pytest.mark.parametrize("leads", [True, False])
def test_a_replica_serves_until_nobody_is_sent_to_it_any_more(leads: bool) -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        delays: list[float] = []
        nobody_comes = asyncio.Event()

        async def reconcile(key: Key) -> Result:
            return Result()

        async def sleep(seconds: float) -> None:
            delays.append(seconds)
            await nobody_comes.wait()

        fit = None if leads else asyncio.Event()
        one = Replica(client, "one", reconcile, fit, shutdown_delay=7.0, sleep=sleep)
        await until(lambda: one.leader.leads if leads else one.manager.unready() == [])
        one.manager.stop()
        assert await one.probe("/readyz") == (503, "it was asked to stop\n")
        await until(lambda: delays)
        lease = server.get(LEASES, "lab", "l")
        assert lease is None or lease["spec"]["holderIdentity"] == ""
        assert (await get(f"http://127.0.0.1:{one.everywhere.port}/"))[0] == 404
        assert not one.task.done()
        nobody_comes.set()
        assert await one.task == 0
        assert delays == [7.0]

    running(test)


def test_a_replica_is_not_ready_until_its_caches_are() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        async def reconcile(key: Key) -> Result:
            return Result()

        server.fail(503, path="configmaps", times=10_000)
        one = Replica(client, "one", reconcile)
        await until(lambda: server.counts(path="configmaps")["GET"] > 3)
        assert await one.probe("/readyz") == (503, "the cache of configmaps is not filled\n")
        assert await one.probe("/healthz") == (200, "ok\n")
        assert server.counts(path="leases") == {}
        assert one.filled == []
        server.before.clear()
        await until(lambda: one.manager.unready() == [])
        assert one.filled == [True]
        one.manager.stop()
        assert await one.task == 0

    running(test)


def test_a_stop_ends_a_replica_whatever_it_waits_for() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        async def reconcile(key: Key) -> Result:
            return Result()

        leading = Replica(client, "one", reconcile)
        await until(lambda: leading.leader.leads)
        waiting = Replica(client, "two", reconcile)
        await until(lambda: waiting.leader.holder == "one")
        waiting.manager.stop()
        assert await waiting.task == 0
        server.fail(503, path="configmaps", times=10_000)
        starting = Replica(client, "three", reconcile)
        await asyncio.sleep(0)
        starting.manager.stop()
        assert await starting.task == 0
        leading.manager.stop()
        assert await leading.task == 0

    running(test)


def test_a_stop_lets_reconciles_end_before_the_lease_is_given_up() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        began, finish, holders = asyncio.Event(), asyncio.Event(), []

        async def reconcile(key: Key) -> Result:
            began.set()
            await finish.wait()
            lease = server.get(LEASES, "lab", "l") or {}
            holders.append(lease["spec"]["holderIdentity"])
            return Result()

        server.put(CONFIG_MAP)
        one = Replica(client, "one", reconcile)
        await began.wait()
        one.manager.stop()
        # It has to be kept while the reconcile goes on.
        kept = server.counts(path="leases")["PUT"]
        await until(lambda: server.counts(path="leases")["PUT"] > kept + 5)
        assert not one.task.done()
        finish.set()
        assert await one.task == 0
        assert holders == ["one"]

    running(test)


def test_a_lost_lease_cancels_the_work_and_ends_with_1() -> None:
    async def test(server: FakeApiServer, client: Client) -> None:
        ended: list[str] = []
        began = asyncio.Event()

        async def reconcile(key: Key) -> Result:
            began.set()
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append("cancelled")
            return Result()

        server.put(CONFIG_MAP)
        one = Replica(client, "one", reconcile, timing=HASTY)
        await began.wait()
        server.fail(503, path="leases", times=10_000)
        assert await one.task == 1
        assert ended == ["cancelled"]

    running(test)


def test_a_task_that_ends_by_itself_ends_the_process() -> None:
    async def main() -> None:
        async def ends() -> None:
            return

        with pytest.raises(ExceptionGroup, match="unhandled errors"):
            await Manager(tasks=[ends], controllers=[]).run()

    asyncio.run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_the_process_with_0(number: signal.Signals) -> None:
    program = textwrap.dedent(
        """
        import asyncio
        from florence_operator.runtime.manager import Manager

        async def say():
            print("running", flush=True)
            await asyncio.sleep(1000)

        raise SystemExit(asyncio.run(Manager(leading=[say]).run()))
        """
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'operator'}"}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        process.send_signal(number)
        assert process.wait(120) == 0
