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
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence_operator.api.labels import JOB_LABEL
from florence_operator.kube.client import FLORENCE_JOBS, PODS, PYTORCH_JOBS, Client
from florence_operator.runtime.authority import Step, renewed
from florence_operator.runtime.leader import utc_now
from tests.benchmarks.operator_load import (
    NAMESPACE,
    Arrivals,
    all_of,
    finished_jobs,
    florence_job,
    pretend,
    pytorch_job,
)

ROOT = Path(__file__).parents[2]
PORT = 18080
TRAINING_OPERATOR = ("-n", "kubeflow", "deployment/training-operator")
RAISED = ["--kube-api-qps=200", "--kube-api-burst=400", "--controller-threads=16"]


def kubectl(*arguments: str, given: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=given, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


class Operator:
    """The operator as a process of this machine."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        settings = {
            "watchNamespaces": [NAMESPACE],
            "leaderElection": {"enabled": False},
            "webhook": {"enabled": False},
            "progress": {"port": PORT + 1, "url": "https://none.invalid"},
            "certificates": {"directory": self._folder.name},
            "healthPort": PORT,
            "metrics": {"port": PORT + 2, "protected": False},
            "shutdownDelay": "0s",
            "kueue": "off",
        }
        folder = Path(self._folder.name)
        made = renewed(None, Step.MAKE, ["none.invalid"], utc_now())
        (folder / "tls.crt").write_bytes(made.certificate)
        (folder / "tls.key").write_bytes(made.key)
        path = folder / "config.yaml"
        path.write_text(json.dumps(settings))
        self._command = [sys.executable, "-m", "florence_operator", "--config", str(path)]
        self._log = open(Path(self._folder.name) / "log", "wb")  # noqa: SIM115 - as long as it runs

    def start(self) -> float:
        """Start it; returns the seconds until it was ready."""
        began = time.monotonic()
        environment = {**os.environ, "POD_NAMESPACE": "florence-system", "POD_NAME": "bench"}
        self._process = subprocess.Popen(
            self._command, env=environment, stdout=self._log, stderr=subprocess.STDOUT
        )
        self.usage = psutil.Process(self._process.pid)
        while not self._ready():
            if self._process.poll() is not None:
                raise SystemExit(Path(self._log.name).read_text())
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop it as Kubernetes would."""
        self._process.terminate()
        self._process.wait(timeout=60)

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    @property
    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        return float(self.usage.memory_info().rss) / 1e6

    def requests(self) -> Counter[str]:
        """Requests to the API server so far, by verb."""
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT + 2}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        counted: Counter[str] = Counter()
        for labels, value in re.findall(r"^rest_client_requests_total{(.*)} (\S+)$", text, re.M):
            verb = re.search(r'method="([^"]+)"', labels)
            counted[verb[1] if verb else "?"] += int(float(value))
        return counted


@contextlib.contextmanager
def without_training_operator() -> Iterator[None]:
    """Stop the Training Operator and keep its webhook from refusing what it does not see."""
    name = "validator.training-operator.kubeflow.org"
    saved = json.loads(kubectl("get", "validatingwebhookconfiguration", name, "-o", "json"))
    saved["metadata"] = {"name": name, "labels": saved["metadata"].get("labels", {})}
    _scale(0)
    kubectl("delete", "validatingwebhookconfiguration", name)
    try:
        yield
    finally:
        kubectl("apply", "-f", "-", given=json.dumps(saved))
        _scale(1)


def _scale(replicas: int) -> None:
    namespace, deployment = TRAINING_OPERATOR[:2], TRAINING_OPERATOR[2]
    kubectl(*namespace, "scale", deployment, f"--replicas={replicas}")
    kubectl(*namespace, "rollout", "status", deployment, "--timeout=180s")


def _restart_training_operator(flags: list[str]) -> None:
    namespace, deployment = TRAINING_OPERATOR[:2], TRAINING_OPERATOR[2]
    patch = [{"op": "add", "path": "/spec/template/spec/containers/0/args", "value": flags}]
    kubectl(*namespace, "patch", deployment, "--type=json", "-p", json.dumps(patch))
    _scale(0)
    _scale(1)
    time.sleep(5)  # its webhook's certificate


@contextlib.asynccontextmanager
async def empty_namespace(client: Client) -> AsyncIterator[None]:
    """A namespace of the benchmark's own, emptied afterwards."""
    kubectl("create", "namespace", NAMESPACE)
    try:
        yield
    finally:
        for kind in ("florencejobs", "pytorchjobs", "pods", "services", "configmaps"):
            await client.request("DELETE", _collection(kind), body={"gracePeriodSeconds": 0})
        kubectl("delete", "namespace", NAMESPACE, "--timeout=600s")


def _collection(kind: str) -> str:
    group = {"florencejobs": "apis/florence.dev/v1alpha1", "pytorchjobs": "apis/kubeflow.org/v1"}
    return f"/{group.get(kind, 'api/v1')}/namespaces/{NAMESPACE}/{kind}"


async def jobs_at_once(client: Client, count: int) -> dict[str, Any]:
    """All jobs applied at once, until each has succeeded."""
    operator = Operator()
    operator.start()
    before, cpu = operator.requests(), operator.cpu_seconds
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
    created = {"cpu": operator.cpu_seconds - cpu, "requests": operator.requests() - before}
    await _succeed(client, count)
    requests = operator.requests() - before
    result = {
        "seconds": seconds,
        "applying": applying,
        "per_second": count / seconds,
        "p50": statistics.median(waits),
        "p99": waits[int(0.99 * (count - 1))],
        "created": created,
        "calls": {verb: round(n / count, 2) for verb, n in sorted(requests.items())},
        "calls_per_job": sum(requests.values()) / count,
        "cpu_seconds": operator.cpu_seconds - cpu,
        "megabytes": operator.megabytes,
    }
    operator.stop()
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


async def many_finished(client: Client, count: int) -> dict[str, float]:
    """What ended jobs cost: memory, CPU at rest, and the time to be ready again."""
    await finished_jobs(client, count)
    operator = Operator()
    ready = operator.start()
    await asyncio.sleep(30)
    cpu, began = operator.cpu_seconds, time.monotonic()
    await asyncio.sleep(60)
    idle = (operator.cpu_seconds - cpu) / (time.monotonic() - began)
    operator.stop()
    again = operator.start()
    result = {"ready": ready, "again": again, "idle": idle, "megabytes": operator.megabytes}
    operator.stop()
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
    if kubectl(
        "get", "deployments", "-A", "-l", "app.kubernetes.io/name=florence-operator"
    ).strip():
        raise SystemExit("this cluster has a florence-operator: use one that nobody else uses")
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/base/crds"))
    async with await Client.connect() as client:
        with without_training_operator():
            async with empty_namespace(client):
                ours = await jobs_at_once(client, options.jobs)
            print(f"{options.jobs} jobs at once: {json.dumps(ours, default=dict)}", flush=True)
            async with empty_namespace(client):
                rest = await many_finished(client, options.finished)
            print(f"{options.finished} finished jobs: {json.dumps(rest)}", flush=True)
        for title, flags in (("default flags", []), ("raised flags", RAISED)):
            _restart_training_operator(flags)
            async with empty_namespace(client):
                theirs = await training_operator(client, options.jobs)
            ratio = ours["per_second"] / theirs
            print(f"Training Operator, {title}: {theirs:.1f} jobs/s; ours {ratio:.1f}x", flush=True)
        _restart_training_operator([])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--finished", type=int, default=10_000)
    asyncio.run(main(parser.parse_args()))
