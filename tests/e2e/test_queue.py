"""Two jobs in one Kueue queue: the second waits and says why; a higher priority goes first."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, KubectlError, eventually, items, kubectl

pytestmark = pytest.mark.either_backend
QUEUE = "a100"
GPUS = 2


@pytest.fixture(scope="module", autouse=True)
def queue() -> Iterator[None]:
    """A queue of two GPUs in which a higher priority preempts a lower one."""
    try:
        kubectl("get", "crd", "clusterqueues.kueue.x-k8s.io")
    except KubectlError:
        pytest.skip("the cluster has no Kueue")
    crd = json.loads(kubectl("get", "crd", "clusterqueues.kueue.x-k8s.io", "-o", "json"))
    versions = {each["name"] for each in crd["spec"]["versions"] if each["served"]}
    api = f"kueue.x-k8s.io/{'v1beta1' if 'v1beta1' in versions else 'v1beta2'}"
    quota = [
        {"name": "cpu", "nominalQuota": 100},
        {"name": "memory", "nominalQuota": "1000Gi"},
        {"name": "nvidia.com/gpu", "nominalQuota": GPUS},
    ]
    documents = [
        {"kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {
            "kind": "ClusterQueue",
            "metadata": {"name": "pool"},
            "spec": {
                "namespaceSelector": {},
                "preemption": {"withinClusterQueue": "LowerPriority"},
                "resourceGroups": [
                    {
                        "coveredResources": [entry["name"] for entry in quota],
                        "flavors": [{"name": "any", "resources": quota}],
                    }
                ],
            },
        },
        {
            "kind": "LocalQueue",
            "metadata": {"name": QUEUE, "namespace": NAMESPACE},
            "spec": {"clusterQueue": "pool"},
        },
        {"kind": "WorkloadPriorityClass", "metadata": {"name": "urgent"}, "value": 1000},
    ]
    manifest = json.dumps(
        {
            "apiVersion": "v1",
            "kind": "List",
            "items": [{"apiVersion": api, **document} for document in documents],
        }
    )
    eventually("Kueue takes queues", lambda: _applied(manifest), timeout=120, pause=3)
    yield
    kubectl("delete", "-f", "-", "--ignore-not-found", given=manifest)


def _applied(manifest: str) -> bool:
    try:
        kubectl("apply", "-f", "-", given=manifest)
    except KubectlError:
        return False
    return True


def gpu_job(name: str, **run_policy: object) -> dict[str, object]:
    job = jobs.small_job(name, queue=QUEUE, **run_policy)
    job["spec"]["stages"][0]["resources"]["gpusPerWorker"] = GPUS // 2
    job["spec"]["pods"] = {"environment": {"OMP_NUM_THREADS": "1"}}  # the GPUs only exist on paper
    return job


def queued_message(name: str) -> str:
    """Why a job waits in its queue; Kueue takes a moment to say it, each release in other words."""
    conditions = {c["type"]: c for c in jobs.status(name)["conditions"]}
    assert conditions["Queued"]["status"] == "True"
    return str(conditions["Queued"]["message"]).lower()


def test_the_second_job_waits_says_why_and_runs_afterwards() -> None:
    first = jobs.submit(gpu_job("first"))
    jobs.wait_for(first, "Running", timeout=120)
    second = jobs.submit(gpu_job("second"))
    jobs.wait_for(second, "Queued", timeout=60)
    eventually("Kueue's reason is told", lambda: "quota" in queued_message(second), timeout=60)
    assert not jobs.pods(second)
    jobs.wait_for(first, "Succeeded", timeout=400)
    jobs.wait_for(second, "Succeeded", timeout=400)
    (attempt,) = jobs.attempts(second)
    assert attempt["queuedSeconds"] > 0
    for name in (first, second):
        jobs.delete(name)


def test_a_preempted_job_goes_on_from_its_checkpoint_at_no_cost(
    parameters: Callable[[str], str],
) -> None:
    low = jobs.submit(gpu_job("low", retries={"infrastructure": 0, "application": 0}))
    committed = jobs.wait_for_commit(low, 2 * jobs.EVERY_STEPS)
    high = jobs.submit(gpu_job("high", priorityClass="urgent"))
    jobs.wait_for(high, "Running", timeout=180)
    jobs.wait_for(low, "Queued", timeout=120)
    jobs.wait_for(high, "Succeeded", timeout=400)
    jobs.wait_for(low, "Succeeded", timeout=400)
    first, second = jobs.attempts(low)
    assert first["cause"] == "Preempted"
    assert second["restoredStep"] >= committed
    assert parameters(low) == parameters(high)
    for name in (low, high):
        jobs.delete(name)
    assert not [w for w in items("workloads.kueue.x-k8s.io") if "low" in w["metadata"]["name"]]
