from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.metrics import Metrics
from florence_operator.runtime.workqueue import QueueClosedError, WorkQueue
from tests.operator.runtime.virtual_time import run

# What producers do: wait, then add a key now or later.
actions = st.lists(
    st.tuples(
        st.floats(0, 3),
        st.sampled_from("abc"),
        st.one_of(st.none(), st.floats(0, 5)),
    ),
    max_size=30,
)


@given(
    actions, st.integers(1, 4), st.lists(st.sampled_from([0.0, 0.5, 4.0]), min_size=1, max_size=5)
)
def test_no_key_is_worked_on_twice_at_once_and_none_is_lost(
    actions: list[tuple[float, str, float | None]], workers: int, durations: list[float]
) -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        loop = asyncio.get_running_loop()
        busy: set[str] = set()
        starts: dict[str, list[float]] = {key: [] for key in "abc"}
        due: dict[str, list[tuple[float, float]]] = {key: [] for key in "abc"}
        turn = iter(range(10**6))

        async def work() -> None:
            while True:
                try:
                    key = await queue.get()
                except QueueClosedError:
                    return
                assert key not in busy
                busy.add(key)
                starts[key].append(loop.time())
                await asyncio.sleep(durations[next(turn) % len(durations)])
                busy.remove(key)
                queue.done(key)

        tasks = [asyncio.create_task(work()) for _ in range(workers)]
        for wait, key, delay in actions:
            await asyncio.sleep(wait)
            due[key].append((loop.time(), loop.time() + (delay or 0.0)))
            if delay is None:
                queue.add(key)
            else:
                queue.add_after(key, delay)
        await asyncio.sleep(10_000)
        queue.close()
        await asyncio.gather(*tasks)
        for key in "abc":
            assert len(starts[key]) <= len(due[key])
            for added, until in due[key]:
                # An earlier appointment may have taken its place, but never one that was over.
                after = [start for start in starts[key] if start >= added]
                assert after
                if max(durations) == 0:
                    assert min(after) <= until

    run(main())


def test_an_add_during_work_brings_the_key_back_once() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        queue.add("a")
        queue.add("a")
        assert await queue.get() == "a"
        queue.add("a")
        queue.add("a")
        assert len(queue) == 0
        queue.done("a")
        assert len(queue) == 1
        assert await queue.get() == "a"
        queue.done("a")
        assert len(queue) == 0

    run(main())


def test_of_several_appointments_the_earliest_counts() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for delays in ([5, 9], [9, 5], [5, 5, 7]):
            queue: WorkQueue[str] = WorkQueue()
            started = loop.time()
            for delay in delays:
                queue.add_after("a", delay)
            assert await queue.get() == "a"
            assert loop.time() - started == pytest.approx(5)
            queue.done("a")
            waiting = asyncio.create_task(queue.get())
            await asyncio.sleep(100)
            assert not waiting.done()
            queue.close()
            with pytest.raises(QueueClosedError):
                await waiting

    run(main())


def test_failures_of_a_key_wait_longer_each_time_up_to_a_limit() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue(backoff=Backoff(first=1, longest=10, jitter=0))
        assert [queue.add_failed("a") for _ in range(6)] == [1, 2, 4, 8, 10, 10]
        assert queue.add_failed("b") == 1
        queue.forget("a")
        assert queue.failures("a") == 0
        assert queue.add_failed("a") == 1

    run(main())


def test_a_worker_that_is_cancelled_while_it_waits_takes_no_key_with_it() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        first = asyncio.create_task(queue.get())
        second = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("a")
        first.cancel()
        assert await second == "a"

    run(main())


def test_a_closed_queue_gives_nothing_and_takes_nothing() -> None:
    async def main() -> None:
        queue: WorkQueue[str] = WorkQueue()
        getters = [asyncio.create_task(queue.get()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.add_after("a", 1)
        queue.close()
        queue.add("b")
        queue.add_after("c", 1)
        results = await asyncio.gather(*getters, return_exceptions=True)
        assert [type(result) for result in results] == [QueueClosedError] * 3

    run(main())


def test_it_is_measured() -> None:
    async def main() -> None:
        metrics = Metrics(CollectorRegistry())
        queue: WorkQueue[str] = WorkQueue(metrics=metrics.queue("jobs"))

        def value(name: str) -> float | None:
            return metrics.registry.get_sample_value(name, {"name": "jobs"})

        for key in "aab":
            queue.add(key)
        assert value("workqueue_depth") == 2
        assert value("workqueue_adds_total") == 2
        await asyncio.sleep(3)
        key = await queue.get()
        await asyncio.sleep(4)
        queue.add_failed(key)
        queue.done(key)
        assert value("workqueue_depth") == 1
        assert value("workqueue_retries_total") == 1
        assert value("workqueue_queue_duration_seconds_sum") == pytest.approx(3)
        assert value("workqueue_work_duration_seconds_sum") == pytest.approx(4)

    run(main())
