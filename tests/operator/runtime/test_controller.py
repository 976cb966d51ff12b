from __future__ import annotations

import asyncio
import logging

import pytest
from prometheus_client import CollectorRegistry

from florence_operator.kube.rate_limits import Backoff
from florence_operator.runtime.controller import Controller, Key, Result, TerminalError
from florence_operator.runtime.metrics import Metrics
from tests.operator.runtime.virtual_time import run

A, B = Key("lab", "a"), Key("lab", "b")
STEADY = Backoff(first=1, longest=8, jitter=0)


def test_failures_are_tried_again_and_never_end_a_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        metrics = Metrics(CollectorRegistry())
        times: list[float] = []

        async def reconcile(key: Key) -> Result:
            times.append(asyncio.get_running_loop().time())
            problems = [ValueError("broken"), TimeoutError(), KeyError("x")]
            if len(times) <= len(problems):
                raise problems[len(times) - 1]
            if len(times) == 4:
                await asyncio.sleep(1000)
            return Result()

        controller = Controller(
            "jobs", reconcile, workers=1, timeout=10, backoff=STEADY, metrics=metrics
        )
        task = asyncio.create_task(controller.run())
        controller.enqueue(A)
        await asyncio.sleep(100)
        assert [round(t - times[0]) for t in times] == [0, 1, 3, 7, 7 + 10 + 8]

        def value(result: str) -> float | None:
            labels = {"controller": "jobs", "result": result}
            return metrics.registry.get_sample_value("controller_runtime_reconcile_total", labels)

        assert (value("error"), value("success")) == (4, 1)
        assert not task.done()
        controller.stop()
        await task

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "lab/a" in caplog.text
    assert "broken" in caplog.text


def test_a_terminal_failure_is_not_tried_again_until_something_changes() -> None:
    async def main() -> None:
        metrics = Metrics(CollectorRegistry())
        calls: list[Key] = []

        async def reconcile(key: Key) -> Result:
            calls.append(key)
            raise TerminalError("Invalid", "no such stage")

        controller = Controller("jobs", reconcile, metrics=metrics)
        task = asyncio.create_task(controller.run())
        controller.enqueue(A)
        await asyncio.sleep(10_000)
        assert calls == [A]
        controller.enqueue(A)
        await asyncio.sleep(1)
        assert calls == [A, A]
        name = "controller_runtime_terminal_reconcile_errors_total"
        assert metrics.registry.get_sample_value(name, {"controller": "jobs"}) == 2
        controller.stop()
        await task

    run(main())


def test_a_result_may_ask_for_another_look() -> None:
    async def main() -> None:
        times: list[float] = []

        async def reconcile(key: Key) -> Result:
            times.append(asyncio.get_running_loop().time())
            return Result(requeue_after=15 if len(times) < 4 else None)

        controller = Controller("jobs", reconcile)
        task = asyncio.create_task(controller.run())
        controller.enqueue_after(A, 5)
        started = asyncio.get_running_loop().time()
        await asyncio.sleep(1000)
        assert [round(t - started) for t in times] == [5, 20, 35, 50]
        controller.stop()
        await task

    run(main())


def test_as_many_keys_are_worked_on_as_there_are_workers() -> None:
    async def main() -> None:
        busy: set[Key] = set()
        most = 0

        async def reconcile(key: Key) -> Result:
            nonlocal most
            assert key not in busy
            busy.add(key)
            most = max(most, len(busy))
            await asyncio.sleep(1)
            busy.remove(key)
            return Result()

        controller = Controller("jobs", reconcile, workers=3)
        task = asyncio.create_task(controller.run())
        for number in range(30):
            controller.enqueue(Key("lab", f"k{number % 10}"))
        await asyncio.sleep(100)
        assert most == 3
        controller.stop()
        await task

    run(main())


def test_a_stop_lets_the_reconciles_in_flight_end_and_a_cancellation_does_not() -> None:
    async def main() -> None:
        ended: list[str] = []

        async def reconcile(key: Key) -> Result:
            try:
                await asyncio.sleep(5)
                ended.append("well")
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return Result()

        for end in ("stop", "cancel"):
            controller = Controller("jobs", reconcile)
            task = asyncio.create_task(controller.run())
            controller.enqueue(A)
            controller.enqueue(B)
            await asyncio.sleep(1)
            if end == "stop":
                controller.stop()
            else:
                task.cancel()
            await asyncio.wait({task})
        assert ended == ["well", "cancelled"]

    run(main())
