"""The operator on a real API server: how many jobs, how soon, at what cost.

    make bench-operator        # the cluster in KUBECONFIG: one that nobody else uses

The cluster has the Training Operator and no operator of ours: that runs as a process of this
machine, alone. The Training Operator is stopped and its webhook taken away meanwhile, and brought
back afterwards. Pods only pretend to run. The Training Operator then makes as many pods from as
many PyTorchJobs, at its default flags and at raised ones: that is the yardstick.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence_operator.api.labels import JOB_LABEL
from florence_operator.kube.client import FLORENCE_JOBS, PODS, PYTORCH_JOBS, Client
from tests.benchmarks.benchmark_namespace import empty_namespace, kubectl, refuse_an_operator
from tests.benchmarks.operator_load import (
    NAMESPACE,
    Arrivals,
    all_of,
    finished_jobs,
    florence_job,
    pretend,
    pytorch_job,
)
from tests.benchmarks.operator_process import OperatorProcess
from tests.benchmarks.training_operator import (
    RAISED,
    restart_training_operator,
    without_training_operator,
)

ROOT = Path(__file__).parents[2]
PORT = 18080


@contextlib.asynccontextmanager
async def our_operator() -> AsyncIterator[OperatorProcess]:
    """The operator for the benchmark's namespace, not yet started."""
    with tempfile.TemporaryDirectory() as folder:
        yield OperatorProcess(Path(folder), PORT, settings={"watchNamespaces": [NAMESPACE]})


async def jobs_at_once(client: Client, operator: OperatorProcess, count: int) -> dict[str, Any]:
    """All jobs applied at once, until each has succeeded."""
    await operator.start()
    before, cpu = await operator.requests(), operator.cpu_seconds()
    names = [f"job-{number}" for number in range(count)]
    applied: dict[str, float] = {}
    made = Arrivals(client, PYTORCH_JOBS, lambda d: str(d["metadata"]["labels"][JOB_LABEL]))

    async def apply(name: str) -> None:
        await client.create(florence_job(name))
        applied[name] = time.monotonic()

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(made.run())
        began = time.monotonic()
        await all_of(apply(name) for name in names)
        applying = time.monotonic() - began
        await made.reach(count, 600)
        watching.cancel()
    waits = sorted(max(0.0, made.seen[name] - applied[name]) for name in names)
    seconds = max(made.seen.values()) - began
    created = {
        "cpu": operator.cpu_seconds() - cpu,
        "requests": await operator.requests() - before,
    }
    await _succeed(client, count)
    requests = await operator.requests() - before
    result = {
        "seconds": seconds,
        "applying": applying,
        "per_second": count / seconds,
        "p50": statistics.median(waits),
        "p99": waits[int(0.99 * (count - 1))],
        "created": created,
        "calls": {verb: round(n / count, 2) for verb, n in sorted(requests.items())},
        "calls_per_job": sum(requests.values()) / count,
        "cpu_seconds": operator.cpu_seconds() - cpu,
        "megabytes": operator.megabytes(),
    }
    await operator.stop()
    return result


async def _succeed(client: Client, count: int) -> None:
    """Let every child's pod run and succeed, and wait until every job says so."""

    async def pods() -> None:
        existing, _ = await client.list(PYTORCH_JOBS, NAMESPACE)
        await all_of((pretend(client, child) for child in existing), at_once=64)

    await pods()
    while True:
        jobs, _ = await client.list(FLORENCE_JOBS, NAMESPACE)
        phases = Counter(job.get("status", {}).get("phase") for job in jobs)
        if phases["Succeeded"] >= count:
            return
        if phases["Failed"]:
            raise SystemExit(f"jobs failed: {phases}")
        await asyncio.sleep(1)


async def many_finished(client: Client, operator: OperatorProcess, count: int) -> dict[str, float]:
    """What ended jobs cost: memory, CPU at rest, and the time to be ready again."""
    await finished_jobs(client, count)
    ready = await operator.start()
    await asyncio.sleep(30)
    cpu, began = operator.cpu_seconds(), time.monotonic()
    await asyncio.sleep(60)
    idle = (operator.cpu_seconds() - cpu) / (time.monotonic() - began)
    await operator.stop()
    again = await operator.start()
    result = {"ready": ready, "again": again, "idle": idle, "megabytes": operator.megabytes()}
    await operator.stop()
    return result


async def training_operator(client: Client, count: int) -> float:
    """Pods a second that the Training Operator makes from as many jobs of one pod."""
    made = Arrivals(client, PODS, lambda d: str(d["metadata"]["name"]))
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(made.run())
        began = time.monotonic()
        await all_of(client.create(pytorch_job(f"plain-{n}")) for n in range(count))
        await made.reach(count, 1200)
        watching.cancel()
    return len(made.seen) / (max(made.seen.values()) - began)


async def main(options: argparse.Namespace) -> None:
    refuse_an_operator()
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/base/crds"))
    async with await Client.connect() as client:
        with without_training_operator():
            async with empty_namespace(client), our_operator() as operator:
                ours = await jobs_at_once(client, operator, options.jobs)
            print(f"{options.jobs} jobs at once: {json.dumps(ours, default=dict)}", flush=True)
            async with empty_namespace(client), our_operator() as operator:
                rest = await many_finished(client, operator, options.finished)
            print(f"{options.finished} finished jobs: {json.dumps(rest)}", flush=True)
        for title, flags in (("default flags", []), ("raised flags", RAISED)):
            restart_training_operator(flags)
            async with empty_namespace(client):
                theirs = await training_operator(client, options.jobs)
            ratio = ours["per_second"] / theirs
            print(f"Training Operator, {title}: {theirs:.1f} jobs/s; ours {ratio:.1f}x", flush=True)
        restart_training_operator([])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--finished", type=int, default=10_000)
    asyncio.run(main(parser.parse_args()))
