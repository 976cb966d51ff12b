"""What jobs cost the operator while they run and report, beside many that have ended.

    python tests/benchmarks/bench_running_jobs.py --running 1000 3000 --finished 10000

The operator is a process of this machine, and so are all pods together. The API server is the
tests' stand-in, in a third process, so it needs no cluster; what it answers costs more than etcd's
would, and comes without etcd's delays. Reports go over TLS, on connections that stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence_operator.kube.client import PYTORCH_JOBS
from tests.benchmarks.operator_load import NAMESPACE, finished_status, florence_job
from tests.benchmarks.operator_process import OperatorProcess
from tests.benchmarks.reporting_pods import REPORT_SECONDS, reporting
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.running_jobs import running_pod, token_of

PORT = 18180
JOBS = ("florence.dev", "florencejobs")


def _operator(url: str, folder: Path) -> OperatorProcess:
    access = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": url}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {}}],
    }
    (folder / "kubeconfig").write_text(json.dumps(access))
    return OperatorProcess(folder, PORT, environment={"KUBECONFIG": str(folder / "kubeconfig")})


async def _until(condition: Any, seconds: float = 900.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is another process's to bring about
            await asyncio.sleep(0.005)


async def running(
    server: FakeApiServer, operator: OperatorProcess, count: int, seconds: float
) -> dict[str, Any]:
    """Have so many jobs run and report for a while; what that costs, and how soon one ends."""
    stored = server.objects[JOBS]

    def phase(name: str) -> str | None:
        return (stored[NAMESPACE, name].get("status") or {}).get("phase")

    def told(name: str) -> bool:
        stages = (stored[NAMESPACE, name].get("status") or {}).get("stages") or [{}]
        return "progress" in stages[0]

    names = [f"job-{number}" for number in range(count)]
    for name in names:
        server.put(florence_job(name))
    await _until(lambda: len(server.objects.get(("kubeflow.org", "pytorchjobs"), ())) == count)
    children = server.all(PYTORCH_JOBS)
    pods = [server.put(running_pod(child)) for child in children]
    server.tokens.update(token_of(pod) for pod in pods)
    await _until(lambda: all(phase(name) == "Running" for name in names))
    tokens = [(pod, token_of(pod)[0]) for pod in pods]
    async with reporting(tokens, operator.reports_url, operator.authorities):
        # The first report of each is looked at when it comes, the others in turn.
        await _until(lambda: all(told(name) for name in names))
        await asyncio.sleep(REPORT_SECONDS)
        before, cpu, began = await operator.counted(), operator.cpu_seconds(), time.monotonic()
        await asyncio.sleep(seconds)
        took = time.monotonic() - began
        cpu, after = operator.cpu_seconds() - cpu, await operator.counted()
        memory = operator.megabytes()
        # The stand-in holds all objects and their history: its own pauses are not the operator's.
        gc.collect()
        gc.freeze()
        delays = await _ends(server, children, phase)
    each = {name: (after[name] - before[name]) / took for name in after}
    return {
        "running": count,
        "cpu": round(cpu / took, 3),
        "megabytes": round(memory),
        **{f"{name}_per_second": round(value, 1) for name, value in each.items()},
        "looks_per_write": round(each["looks"] / each["writes"], 2),
        "state_p50_ms": round(1e3 * statistics.median(delays)),
        "state_p99_ms": round(1e3 * delays[int(0.99 * (len(delays) - 1))]),
    }


async def _ends(server: FakeApiServer, children: list[dict[str, Any]], phase: Any) -> list[float]:
    """Let a hundred jobs end, one after the other; seconds until each says so."""
    delays = []
    for child in random.Random(1).sample(children, min(100, len(children))):
        name = child["metadata"]["labels"]["florence.dev/job"]
        ended = {"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:00Z"}}
        container = {"name": "pytorch", "state": ended}
        began = time.monotonic()
        server.put(running_pod(child, "Succeeded", containerStatuses=[container]))
        await _until(lambda name=name: phase(name) == "Succeeded")
        delays.append(time.monotonic() - began)
    return sorted(delays)


async def main(options: argparse.Namespace) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for count in options.running:
        with tempfile.TemporaryDirectory() as folder:
            async with FakeApiServer() as server:
                for number in range(options.finished):
                    server.put({**florence_job(f"done-{number}"), "status": finished_status()})
                server.objects.setdefault(JOBS, {})
                operator = _operator(server.url, Path(folder))
                ready = await operator.start()
                idle = operator.megabytes()
                found = await running(server, operator, count, options.seconds)
                await operator.stop()
                again = await operator.start()
                await operator.stop()
                found |= {"finished": options.finished, "ready_empty_s": round(ready, 1)}
                found |= {"ready_s": round(again, 1), "megabytes_finished_only": round(idle)}
                print(json.dumps(found), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, nargs="+", default=[1000, 3000])
    parser.add_argument("--finished", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    asyncio.run(main(parser.parse_args()))
