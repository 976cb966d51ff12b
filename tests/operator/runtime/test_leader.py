from __future__ import annotations

import asyncio
import copy
import random
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from florence_operator.kube.client import LEASES, ApiError, Client
from florence_operator.runtime.leader import Leader, LeadershipLostError, Timing, micro_time
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.runtime.virtual_time import run

TIMING = Timing(lease_duration=15, renew_deadline=10, retry_period=2)


class LeaseStore:
    """A server that has nothing but one Lease, and answers late or not at all when told to."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down: set[str] = set()
        self.deaf: set[str] = set()

    def client(self, name: str) -> LeaseClient:
        return LeaseClient(self, name)


class LeaseClient:
    def __init__(self, store: LeaseStore, name: str) -> None:
        self.store = store
        self.name = name

    def unlimited(self) -> LeaseClient:
        return self

    async def _answered(self) -> None:
        if self.name in self.store.deaf:
            await asyncio.sleep(1e6)
        await asyncio.sleep(0.05)
        if self.name in self.store.down:
            raise ApiError(0, "Unreachable", "connection refused")

    async def get(self, *_: Any) -> dict[str, Any]:
        await self._answered()
        if self.store.lease is None:
            raise ApiError(404, "NotFound", "no lease")
        return copy.deepcopy(self.store.lease)

    async def create(self, lease: dict[str, Any]) -> dict[str, Any]:
        await self._answered()
        if self.store.lease is not None:
            raise ApiError(409, "AlreadyExists", "there is one")
        return self._keep(lease)

    async def replace(self, lease: dict[str, Any]) -> dict[str, Any]:
        await self._answered()
        known = self.store.lease
        if known is None:
            raise ApiError(404, "NotFound", "no lease")
        if lease["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "modified")
        return self._keep(lease)

    def _keep(self, lease: dict[str, Any]) -> dict[str, Any]:
        self.store.version += 1
        lease = copy.deepcopy(lease)
        lease["metadata"]["resourceVersion"] = str(self.store.version)
        self.store.lease = lease
        return copy.deepcopy(lease)


class Replica:
    """A candidate and the work that it does while it leads."""

    def __init__(self, store: LeaseStore, name: str, working: set[str], slow_end: float) -> None:
        self.name = name
        self.stop = asyncio.Event()
        self.working = working
        self.slow_end = slow_end
        self.led = 0
        self.beside = 0
        self.behind = 0.0
        client: Any = store.client(name)
        loop = asyncio.get_running_loop()
        self.leader = Leader(
            client,
            namespace="florence",
            name="operator",
            identity=name,
            timing=TIMING,
            clock=lambda: loop.time() + self.behind,
            # Every replica's wall clock is wrong in its own way.
            now=lambda: datetime.fromtimestamp(loop.time() + 86_400 * ord(name[-1]), UTC),
        )
        self.task = asyncio.create_task(self.leader.run(self.work))
        # A loss is an ordinary end here: no complaint when nobody asks for it.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def work(self) -> None:
        self.led += 1
        self.working.add(self.name)
        self.beside = max(self.beside, len(self.working) - 1)
        try:
            await self.stop.wait()
        finally:
            try:
                await asyncio.sleep(self.slow_end)
            finally:
                self.working.discard(self.name)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_never_do_two_lead_and_in_the_end_one_does(seed: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        store, working = LeaseStore(), set[str]()
        replicas = [Replica(store, f"r{n}", working, rng.uniform(0, 4)) for n in range(3)]
        for number in range(40):
            await asyncio.sleep(rng.choice([0.01, 1, 5, 20]))
            place = rng.randrange(3)
            name = replicas[place].name
            rng.choice(
                [
                    lambda name=name: store.down.add(name),
                    lambda name=name: store.deaf.add(name),
                    store.down.clear,
                    store.deaf.clear,
                    replicas[place].stop.set,
                    replicas[place].task.cancel,
                ]
            )()
            assert not any(replica.beside for replica in replicas)
            if replicas[place].task.done():
                replicas[place] = Replica(store, f"r{number + 3}", working, rng.uniform(0, 4))
        store.down.clear()
        store.deaf.clear()
        await asyncio.sleep(100)
        if not working:
            replicas.append(Replica(store, "last", working, 0.0))
            await asyncio.sleep(100)
        assert len(working) == 1
        (name,) = working
        assert store.lease is not None
        assert store.lease["spec"]["holderIdentity"] == name
        assert all(r.leader.holder == name for r in replicas if not r.task.done())
        for replica in replicas:
            replica.task.cancel()
        await asyncio.wait([replica.task for replica in replicas])

    run(main())


def pair(
    test: Callable[[LeaseStore, Replica, Replica, set[str]], Any], slow_end: float = 0.0
) -> None:
    async def main() -> None:
        store, working = LeaseStore(), set[str]()
        first = Replica(store, "first", working, slow_end)
        await asyncio.sleep(1)
        second = Replica(store, "second", working, slow_end)
        await asyncio.sleep(30)
        assert working == {"first"}
        assert second.leader.holder == "first"
        assert not second.leader.leads
        await test(store, first, second, working)
        for replica in (first, second):
            replica.task.cancel()
        await asyncio.wait({first.task, second.task})

    run(main())


def test_after_a_release_the_second_takes_over_at_once() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        first.stop.set()
        await first.task
        assert store.lease is not None
        assert store.lease["spec"]["holderIdentity"] == ""
        await asyncio.sleep(3)
        assert working == {"second"}
        assert store.lease["spec"]["leaseTransitions"] == 1
        assert store.lease["spec"]["leaseDurationSeconds"] == 15

    pair(test, slow_end=3.0)


def test_after_a_death_the_second_takes_over_when_the_lease_has_expired() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        store.down.add("first")
        await asyncio.sleep(11)
        with pytest.raises(LeadershipLostError):
            await first.task
        assert working == set()
        await asyncio.sleep(8)
        assert working == {"second"}

    pair(test)


def test_the_work_has_ended_before_the_loss_is_told() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        store.deaf.add("first")
        await asyncio.wait({first.task})
        assert isinstance(first.task.exception(), LeadershipLostError)
        assert working == set()

    pair(test, slow_end=4.0)


def test_troubles_shorter_than_the_deadline_change_nothing() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        for _ in range(5):
            store.down.add("first")
            await asyncio.sleep(7)
            store.down.clear()
            await asyncio.sleep(5)
        assert (first.led, second.led) == (1, 0)
        assert first.leader.leads

    pair(test)


def test_a_leader_that_was_paused_writes_nothing_more() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        first.leader.check()
        first.behind = 60.0
        with pytest.raises(LeadershipLostError):
            first.leader.check()
        version = store.version
        await asyncio.wait({first.task})
        assert isinstance(first.task.exception(), LeadershipLostError)
        assert store.version == version

    pair(test)


def test_a_lease_that_another_took_is_lost_at_once() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        assert store.lease is not None
        store.lease["spec"]["holderIdentity"] = "third"
        store.lease["metadata"]["resourceVersion"] = "999"
        await asyncio.sleep(3)
        assert isinstance(first.task.exception(), LeadershipLostError)
        assert first.leader.holder == "third"

    pair(test)


def test_a_lease_that_somebody_deleted_is_made_again() -> None:
    async def test(store: LeaseStore, first: Replica, second: Replica, working: set[str]) -> None:
        store.lease = None
        first_before = first.led
        await asyncio.sleep(30)
        assert len(working) == 1
        assert first.led == first_before

    pair(test)


def test_work_that_fails_gives_the_lease_up() -> None:
    async def main() -> None:
        store = LeaseStore()
        client: Any = store.client("one")

        async def work() -> None:
            raise ValueError("broken")

        loop = asyncio.get_running_loop()
        leader = Leader(
            client, namespace="n", name="l", identity="one", timing=TIMING, clock=loop.time
        )
        with pytest.raises(ValueError, match="broken"):
            await leader.run(work)
        assert store.lease is not None
        assert store.lease["spec"]["holderIdentity"] == ""
        assert not leader.leads

    run(main())


def test_times_are_what_kubernetes_reads() -> None:
    form = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    east = timezone(timedelta(hours=2))
    assert micro_time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=east)) == "2026-01-02T01:04:05.000000Z"
    assert form.fullmatch(micro_time(datetime.now(UTC)))


def test_timings_that_cannot_be_safe_are_refused() -> None:
    with pytest.raises(ValueError, match="renew_deadline"):
        Timing(lease_duration=10, renew_deadline=10, retry_period=2)


def test_two_candidates_on_a_real_server() -> None:
    timing = Timing(lease_duration=1.0, renew_deadline=0.6, retry_period=0.05)

    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            leading: asyncio.Queue[str] = asyncio.Queue()

            def candidate(name: str, client: Client) -> tuple[Leader, asyncio.Event, Any]:
                changes: list[bool] = []
                leader = Leader(
                    client,
                    namespace="lab",
                    name="operator",
                    identity=name,
                    timing=timing,
                    on_change=changes.append,
                )
                stop = asyncio.Event()

                async def work() -> None:
                    leading.put_nowait(name)
                    await stop.wait()

                return leader, stop, asyncio.create_task(leader.run(work))

            one, stop_one, task_one = candidate("one", client)
            assert await leading.get() == "one"
            two, stop_two, task_two = candidate("two", client)
            server.fail(500, path="leases", method="GET", times=3)
            server.fail(0, path="leases", method="GET", times=3)
            stop_one.set()
            await task_one
            assert await leading.get() == "two"
            assert one.holder == ""
            lease = server.get(LEASES, "lab", "operator")
            assert lease is not None
            assert lease["spec"]["holderIdentity"] == "two"
            assert lease["spec"]["leaseTransitions"] == 1
            assert two.leads
            server.fail(503, path="leases", times=10_000)
            with pytest.raises(LeadershipLostError):
                await task_two
            stop_two.set()

    asyncio.run(main())
