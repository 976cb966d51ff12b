"""Running jobs on a real API server: FlorenceJobs over each backend, and its jobs alone.

    python tests/benchmarks/bench_backends.py --jobs 300   # a cluster that nobody else uses

The cluster has the Training Operator, Kubeflow Trainer, and no operator of ours: that runs as a
process of this machine. Pods only pretend to run; those of FlorenceJobs report every 5 s, with
tokens of their own. Then a hundred of them end, one after the other: how soon does the object that
a user looks at say so?
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence_operator.api.labels import JOB_LABEL
from florence_operator.api.times import timestamp
from florence_operator.kube.client import FLORENCE_JOBS, PODS, PYTORCH_JOBS, Client, Resource
from florence_operator.kube.resources import TRAIN_JOBS
from tests.benchmarks.benchmark_namespace import empty_namespace, kubectl, refuse_an_operator
from tests.benchmarks.operator_load import (
    NAMESPACE,
    NOWHERE,
    Arrivals,
    Document,
    all_of,
    florence_job,
    pytorch_job,
    train_job,
    training_runtime,
)
from tests.benchmarks.operator_process import OperatorProcess
from tests.benchmarks.reporting_pods import REPORT_SECONDS, reporting
from tests.benchmarks.training_operator import RAISED, restart_training_operator
from tests.operator.running_jobs import AUDIENCE

ROOT = Path(__file__).parents[2]
PORT = 18280
ENDING = 100
"""Jobs that end one after the other, at most."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way of running a job, and where its end shows."""

    title: str
    resource: Resource
    document: Callable[[str], Document]
    job_label: str
    """Which label of a pod names its job."""
    ended: Callable[[Document], bool]


def _condition(kind: str) -> Callable[[Document], bool]:
    def holds(document: Document) -> bool:
        conditions = (document.get("status") or {}).get("conditions") or ()
        return any(c["type"] == kind and c["status"] == "True" for c in conditions)

    return holds


def _ours(backend: str) -> Way:
    def document(name: str) -> Document:
        made = florence_job(name)
        made["spec"]["runPolicy"] = {"backend": backend, "startDeadline": "24h"}
        # No node has such a label, so that no kubelet takes the pods.
        made["spec"]["nodePool"] = {"selector": {"florence.dev/nowhere": NOWHERE}}
        return made

    def ended(document: Document) -> bool:
        return (document.get("status") or {}).get("phase") == "Succeeded"

    return Way(f"FlorenceJobs over {backend}s", FLORENCE_JOBS, document, JOB_LABEL, ended)


WAYS = {
    "PyTorchJob": Way(
        "PyTorchJobs alone",
        PYTORCH_JOBS,
        pytorch_job,
        "training.kubeflow.org/job-name",
        _condition("Succeeded"),
    ),
    "TrainJob": Way(
        "TrainJobs alone",
        TRAIN_JOBS,
        train_job,
        "jobset.sigs.k8s.io/jobset-name",
        _condition("Complete"),
    ),
}


async def set_phase(client: Client, pod: Document, phase: str) -> None:
    """Let a pod pretend to run, or to have ended well."""
    now = timestamp(time.time())
    state: Document = {"running": {"startedAt": now}}
    if phase == "Succeeded":
        state = {"terminated": {"exitCode": 0, "finishedAt": now, "startedAt": now}}
    container = {"name": pod["spec"]["containers"][0]["name"], "image": "none", "imageID": ""}
    container |= {"ready": phase == "Running", "restartCount": 0, "state": state}
    status = {"phase": phase, "containerStatuses": [container]}
    name = pod["metadata"]["name"]
    await client.patch(PODS, name, NAMESPACE, {"status": status}, subresource="status")


async def token_of(client: Client, pod: Document) -> str:
    """A token that the API server makes for a pod, as a projected volume has it."""
    metadata = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    account = pod["spec"].get("serviceAccountName", "default")
    answer = await client.request(
        "POST",
        f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{account}/token",
        body={
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [AUDIENCE], "boundObjectRef": bound},
        },
    )
    return str(answer["status"]["token"])


@contextlib.asynccontextmanager
async def watching(arrivals: Arrivals) -> AsyncIterator[Arrivals]:
    """Watch as long as the context lasts."""
    task = asyncio.create_task(arrivals.run())
    try:
        yield arrivals
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measured(
    client: Client, way: Way, operator: OperatorProcess | None, count: int, seconds: float
) -> dict[str, Any]:
    """Make the jobs, let all run for a while, then some of them end."""

    def job_of(pod: Document) -> str:
        return str((pod["metadata"].get("labels") or {}).get(way.job_label))

    names = [f"job-{number}" for number in range(count)]
    async with watching(Arrivals(client, PODS, job_of)) as made:
        await all_of(client.create(way.document(name)) for name in names)
        await made.reach(count, 1200)
    if missing := set(names) - set(made.seen):
        raise SystemExit(f"{way.title}: {len(missing)} jobs of {count} have no pod after 20 min")
    found: dict[str, Any] = {"way": way.title, "jobs": count}
    pods, _ = await client.list(PODS, NAMESPACE)
    await all_of(set_phase(client, pod, "Running") for pod in pods)
    if operator is None:
        await asyncio.sleep(REPORT_SECONDS)
        found |= await _while_running(None, seconds)
        return found | await _ends(client, way, pods, job_of)
    tokens: list[tuple[Document, str]] = []

    async def take(pod: Document) -> None:
        tokens.append((pod, await token_of(client, pod)))

    await all_of(take(pod) for pod in pods)
    async with reporting(tokens, operator.reports_url, operator.authorities):
        await _all_told(client, count)
        await asyncio.sleep(REPORT_SECONDS)
        found |= await _while_running(operator, seconds)
        return found | await _ends(client, way, pods, job_of)


async def _all_told(client: Client, count: int) -> None:
    """Wait until every job shows progress."""
    while True:
        jobs, _ = await client.list(FLORENCE_JOBS, NAMESPACE)
        stages = [((job.get("status") or {}).get("stages") or [{}])[0] for job in jobs]
        if sum("progress" in stage for stage in stages) >= count:
            return
        await asyncio.sleep(1)


async def _while_running(operator: OperatorProcess | None, seconds: float) -> dict[str, Any]:
    """What a while costs: cores of this whole machine that are busy, and our operator's part."""
    psutil.cpu_percent()
    before = await operator.counted() if operator else {}
    cpu, began = operator.cpu_seconds() if operator else 0.0, time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    cores = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
    found: dict[str, Any] = {"busy_cores": round(cores, 2)}
    if operator:
        after = await operator.counted()
        each = {name: (after[name] - before[name]) / took for name in after}
        found |= {f"{name}_per_second": round(value, 1) for name, value in each.items()}
        found["operator_cpu"] = round((operator.cpu_seconds() - cpu) / took, 2)
        found["operator_megabytes"] = round(operator.megabytes())
    return found


async def _ends(
    client: Client, way: Way, pods: Sequence[Document], job_of: Callable[[Document], str]
) -> dict[str, Any]:
    """Let jobs end, one after the other; how soon each says so."""
    delays = []

    def name_of(document: Document) -> str:
        return str(document["metadata"]["name"])

    async with watching(Arrivals(client, way.resource, name_of, way.ended)) as ends:
        await asyncio.sleep(1)  # the watch has begun
        chosen = random.Random(1).sample(list(pods), min(ENDING, len(pods)))
        for number, pod in enumerate(chosen, 1):
            began = time.monotonic()
            await set_phase(client, pod, "Succeeded")
            await ends.reach(number, 120)
            if job_of(pod) not in ends.seen:
                raise SystemExit(f"{way.title}: {job_of(pod)} has not ended after 120 s")
            delays.append(max(0.0, ends.seen[job_of(pod)] - began))
    delays.sort()
    return {
        "end_p50_ms": round(1e3 * statistics.median(delays)),
        "end_p99_ms": round(1e3 * delays[int(0.99 * (len(delays) - 1))]),
    }


async def main(options: argparse.Namespace) -> None:
    refuse_an_operator()
    kubectl("apply", "--server-side", "-k", str(ROOT / "manifests/base/crds"))
    restart_training_operator(RAISED)
    try:
        async with await Client.connect() as client:
            for backend in options.backends:
                async with empty_namespace(client):
                    if backend == "TrainJob":
                        await client.create(training_runtime())
                    alone = await measured(
                        client, WAYS[backend], None, options.jobs, options.seconds
                    )
                    print(json.dumps(alone), flush=True)
                async with empty_namespace(client):
                    with tempfile.TemporaryDirectory() as folder:
                        watched = {"watchNamespaces": [NAMESPACE]}
                        operator = OperatorProcess(Path(folder), PORT, settings=watched)
                        await operator.start()
                        try:
                            ours = await measured(
                                client, _ours(backend), operator, options.jobs, options.seconds
                            )
                        finally:
                            await operator.stop()
                    print(json.dumps(ours), flush=True)
                ratio = ours["end_p50_ms"] / max(1, alone["end_p50_ms"])
                print(f"{backend}: an end shows after {ratio:.2f}x the time of {backend}s alone")
    finally:
        restart_training_operator([])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--backends", nargs="+", choices=list(WAYS), default=list(WAYS))
    asyncio.run(main(parser.parse_args()))
