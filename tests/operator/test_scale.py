"""What running and finished jobs cost: counts and ratios, which no machine's speed changes.

The whole operator, against the stand-in API server, with reports over TLS.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from florence_operator.kube.client import FLORENCE_JOBS, PYTORCH_JOBS
from florence_operator.replica import Replica, make_caches
from florence_operator.runtime.authority import Step, renewed
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.leader import utc_now
from florence_operator.runtime.metrics import Metrics
from florence_operator.settings import OperatorConfiguration
from tests.benchmarks.operator_load import finished_status, florence_job
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.running_jobs import report_of, running_pod, token_of

JOBS = 100
FINISHED = 1_000


@dataclass
class Running:
    """The operator, its server, and the pods of its jobs."""

    server: FakeApiServer
    metrics: Metrics
    session: aiohttp.ClientSession
    url: str
    trust: ssl.SSLContext

    def count(self, name: str, **labels: str) -> int:
        """A counter, over all of its labels but those given."""
        return int(
            sum(
                sample.value
                for family in self.metrics.registry.collect()
                for sample in family.samples
                if sample.name == name and labels.items() <= sample.labels.items()
            )
        )

    @property
    def looks(self) -> int:
        return self.count("controller_runtime_reconcile_total")

    @property
    def progress_writes(self) -> int:
        return self.count("florence_status_writes_total", kind="progress")

    def phases(self) -> list[str]:
        return [job.get("status", {}).get("phase", "") for job in self.server.all(FLORENCE_JOBS)]

    async def report(self, pods: list[dict[str, Any]], step: int) -> None:
        """Every job's worker 0 says how far it is."""
        slots = asyncio.Semaphore(16)

        async def post(pod: dict[str, Any]) -> None:
            bearer = {"Authorization": f"Bearer {token_of(pod)[0]}"}
            async with (
                slots,
                self.session.post(
                    self.url, json=report_of(pod, step), headers=bearer, ssl=self.trust
                ) as answer,
            ):
                assert answer.status == 200, await answer.text()

        await asyncio.gather(*(post(pod) for pod in pods))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(400):
        while not condition():  # noqa: ASYNC110 - it is the operator's to bring about
            await asyncio.sleep(0.05)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@asynccontextmanager
async def operator(folder: Path) -> AsyncIterator[Running]:
    """The operator at work; a job's progress may be written every second, ten a second in all."""
    progress, health, metrics = free_ports(3)
    made = renewed(None, Step.MAKE, ["localhost"], utc_now())
    for name, value in (
        ("tls.crt", made.certificate),
        ("tls.key", made.key),
        ("ca.crt", made.authorities),
    ):
        (folder / name).write_bytes(value)
    settings = OperatorConfiguration.model_validate(
        {
            "progress": {"url": f"https://localhost:{progress}", "port": progress},
            "statusWrites": {"interval": "1s", "perSecond": 10},
            "webhook": {"enabled": False},
            "leaderElection": {"enabled": False},
            "healthPort": health,
            "metrics": {"port": metrics, "protected": False},
            "certificates": {"directory": str(folder)},
            "kueue": "off",
            "shutdownDelay": "0s",
        }
    )
    trust = ssl.create_default_context(cadata=made.authorities.decode())
    async with (
        FakeApiServer() as server,
        server.client() as client,
        aiohttp.ClientSession() as session,
    ):
        caches = await make_caches(client, settings)
        registry = Metrics(CollectorRegistry())
        replica = Replica(client, settings, caches, registry, "florence-system", {})
        manager = replica.manager()
        task = asyncio.create_task(manager.run())
        await until(lambda: manager.unready() == [])
        url = f"https://localhost:{progress}/progress"
        yield Running(server, registry, session, url, trust)
        manager.stop()
        assert await task == 0


async def started(running: Running, count: int) -> list[dict[str, Any]]:
    """Jobs whose pods run, and who have reported once; their pods."""
    for number in range(count):
        running.server.put(florence_job(f"job-{number}"))
    await until(lambda: len(running.server.all(PYTORCH_JOBS)) == count)
    pods = [running.server.put(running_pod(child)) for child in running.server.all(PYTORCH_JOBS)]
    running.server.tokens.update(token_of(pod) for pod in pods)
    await until(lambda: running.phases().count("Running") == count)
    await running.report(pods, 1)
    await until(lambda: running.progress_writes >= count)
    return pods


@pytest.mark.slow
def test_reports_cost_hardly_more_looks_and_requests_than_writes(tmp_path: Path) -> None:
    async def main() -> None:
        async with operator(tmp_path) as running:
            pods = await started(running, JOBS)
            looks, writes = running.looks, running.progress_writes
            sent, reports, step = len(running.server.requests), 0, 1
            while running.progress_writes < writes + 2 * JOBS:
                step += 1
                await running.report(pods, step)
                reports += JOBS
                await asyncio.sleep(0.25)
            looks, writes = running.looks - looks, running.progress_writes - writes
            sent = len(running.server.requests) - sent
            assert reports > 3 * writes, "or nothing is saved"
            assert looks <= 2 * writes
            assert sent <= 1.2 * writes
            # Each job got its turn.
            steps = [
                job["status"]["stages"][0]["progress"]["step"]
                for job in running.server.all(FLORENCE_JOBS)
            ]
            assert min(steps) > 1
            # A change of state waits for nobody's turn.
            state = running.count("florence_status_writes_total", kind="state")
            calls = len(running.server.requests)
            ended = {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:00Z"}}
            for child in running.server.all(PYTORCH_JOBS)[:20]:
                container = {"name": "pytorch", "state": ended}
                pod = running_pod(child, "Succeeded", containerStatuses=[container])
                running.server.put(pod)
            await until(lambda: running.phases().count("Succeeded") == 20)
            await until(lambda: len(running.server.all(PYTORCH_JOBS)) == JOBS - 20)
            assert running.count("florence_status_writes_total", kind="state") - state == 20
            # Status, deletion, event; the others' progress besides.
            assert len(running.server.requests) - calls <= 20 * 5 + 2 * JOBS

    asyncio.run(main())


@pytest.mark.slow
def test_an_ended_job_costs_little_memory_and_one_list_fills_the_cache() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            for number in range(FINISHED):
                server.put({**florence_job(f"done-{number}"), "status": finished_status()})
            gc.collect()
            tracemalloc.start()
            informer = Informer(client, FLORENCE_JOBS)
            task = asyncio.create_task(informer.run())
            await informer.synced.wait()
            gc.collect()
            held, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            task.cancel()
            await asyncio.wait({task})
            assert len(informer) == FINISHED
            assert held / FINISHED < 12_000, "bytes of a job"
            # The list is never held as a whole beside what is kept of it.
            assert peak - held < 24 * 2**20
            lists = [path for _, path in server.requests if path.endswith("florencejobs")]
            assert len(lists) <= 2  # one list, one watch

    asyncio.run(main())
