"""What jobs cost the operator while they run and report, beside many that have ended.

    python tests/benchmarks/bench_running_jobs.py --running 1000 3000 --finished 10000

The operator is a process of this machine. The API server is the tests' stand-in, in the process
that also plays all pods, so it needs no cluster; what it answers costs more than etcd's would, and
comes without etcd's delays. Reports go over TLS, on connections that stay open.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import aiohttp
import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence_operator.kube.client import PYTORCH_JOBS
from florence_operator.runtime.authority import Step, renewed
from florence_operator.runtime.leader import utc_now
from tests.benchmarks.operator_load import NAMESPACE, finished_status, florence_job
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.running_jobs import report_of, running_pod, token_of

PORT = 18180
REPORT_SECONDS = 5.0
JOBS = ("florence.dev", "florencejobs")


class Operator:
    """The operator as a process, whose API server is at a URL."""

    def __init__(self, url: str, folder: Path) -> None:
        made = renewed(None, Step.MAKE, ["localhost"], utc_now())
        for name, value in (
            ("tls.crt", made.certificate),
            ("tls.key", made.key),
            ("ca.crt", made.authorities),
        ):
            (folder / name).write_bytes(value)
        self.trust = ssl.create_default_context(cadata=made.authorities.decode())
        settings = {
            "leaderElection": {"enabled": False},
            "webhook": {"enabled": False},
            "progress": {"port": PORT, "url": f"https://localhost:{PORT}"},
            "certificates": {"directory": str(folder)},
            "healthPort": PORT + 1,
            "metrics": {"port": PORT + 2, "protected": False},
            "shutdownDelay": "0s",
            "kueue": "off",
        }
        (folder / "config.yaml").write_text(json.dumps(settings))
        access = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "x", "cluster": {"server": url}}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "users": [{"name": "x", "user": {}}],
        }
        (folder / "kubeconfig").write_text(json.dumps(access))
        self._folder = folder

    async def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        began = time.monotonic()
        environment = {**os.environ, "KUBECONFIG": str(self._folder / "kubeconfig")}
        environment |= {"POD_NAMESPACE": "florence-system", "POD_NAME": "bench"}
        self._process = self._run(environment)
        self.usage = psutil.Process(self._process.pid)
        while not await asyncio.to_thread(self._ready):
            if self._process.poll() is not None:
                raise SystemExit((self._folder / "log").read_text())
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    def _run(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "florence_operator", "--config", "config.yaml"],
                cwd=self._folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    async def stop(self) -> None:
        """Stop it as Kubernetes would."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait, 60)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT + 1}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    def megabytes(self) -> float:
        """Resident memory."""
        return float(self.usage.memory_info().rss) / 1e6

    async def counted(self) -> dict[str, float]:
        """Looks, writes and reports so far."""

        def read() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT + 2}/metrics") as answer:
                return str(answer.read().decode())

        text = await asyncio.to_thread(read)

        def total(pattern: str) -> float:
            return sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.M))

        return {
            "looks": total(r"controller_runtime_reconcile_total\{.*\}"),
            "writes": total(r"florence_status_writes_total\{.*\}"),
            "reports": total(r'florence_progress_reports_total\{result="taken"\}'),
            "requests": total(r"rest_client_requests_total\{.*\}"),
        }


class Pods:
    """All pods of the jobs: each reports every few seconds until its job ends."""

    def __init__(self, session: aiohttp.ClientSession, trust: ssl.SSLContext) -> None:
        self._session = session
        self._trust = trust
        self._source = random.Random(0)

    async def run(self, pod: dict[str, Any]) -> None:
        """Report for one pod, from a random moment on."""
        bearer = {"Authorization": f"Bearer {token_of(pod)[0]}"}
        url, step = f"https://localhost:{PORT}/progress", 0
        next_time = time.monotonic() + self._source.random() * REPORT_SECONDS
        while True:
            await asyncio.sleep(max(0.0, next_time - time.monotonic()))
            next_time += REPORT_SECONDS
            step += 4
            body = report_of(pod, step)
            async with self._session.post(
                url, json=body, headers=bearer, ssl=self._trust
            ) as answer:
                if answer.status == 409:
                    return
                await answer.read()


async def _until(condition: Any, seconds: float = 900.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - it is another process's to bring about
            await asyncio.sleep(0.005)


async def running(
    server: FakeApiServer, operator: Operator, count: int, seconds: float
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
    connector = aiohttp.TCPConnector(limit=64)
    async with aiohttp.ClientSession(connector=connector) as session:
        gang = Pods(session, operator.trust)
        reporting = [asyncio.create_task(gang.run(pod)) for pod in pods]
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
        for task in reporting:
            task.cancel()
        await asyncio.gather(*reporting, return_exceptions=True)
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
                operator = Operator(server.url, Path(folder))
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
