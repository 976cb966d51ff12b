"""The reconciler over TrainJobs, against a stand-in API server: what it makes and takes away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from florence_operator.api.child_kinds import TRAIN_JOB
from florence_operator.build.names import child_name
from florence_operator.kube.client import FLORENCE_JOBS, ApiError
from florence_operator.kube.resources import JOB_SETS, TRAIN_JOBS, TRAINING_RUNTIMES
from florence_operator.replica import make_caches
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.reconcile.test_reconciler import Bench, single, writes
from tests.operator.simulated_cluster import SETTINGS

C1 = child_name("j", "c", 1, TRAIN_JOB)
ROOT = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/ns"


def run(document: dict[str, Any], check: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakeApiServer(collect_garbage=False) as server, server.client() as client:
            server.groups = {"trainer.kubeflow.org": ["v1alpha1"]}
            server.put(document)
            caches = await make_caches(client, SETTINGS.model_copy(update={"kueue": "off"}))
            tasks = [asyncio.create_task(informer.run()) for informer in caches.all()]
            await asyncio.gather(*(informer.synced.wait() for informer in caches.all()))
            server.requests.clear()
            try:
                await check(Bench(server, client, caches))
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def pod(bench: Bench, phase: str, *, orphan: bool = False) -> None:
    """The pod of attempt 1, as JobSet's Job makes it."""
    metadata = {
        "name": f"{C1}-node-0-0-abcde",
        "namespace": "ns",
        "labels": {
            "florence.dev/job": "j",
            "florence.dev/job-uid": bench.job["metadata"]["uid"],
            "florence.dev/stage": "c",
            "florence.dev/attempt": "1",
            "jobset.sigs.k8s.io/jobset-name": C1,
            "batch.kubernetes.io/job-completion-index": "0",
        },
        "ownerReferences": [
            {"kind": "Job", "name": f"{C1}-node-0", "uid": "the-jobs", "controller": True}
        ],
    }
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {}}
    bench.server.put({**document, "status": {"phase": phase}})


def test_an_undisturbed_job_costs_two_requests_more_than_with_a_pytorchjob() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        await bench.seen()
        (attempt,) = bench.job["status"]["stages"][0]["attempts"]
        assert attempt["jobRef"] == {"kind": "TrainJob", "name": C1}
        pod(bench, "Running")
        await bench.seen()
        await bench.reconcile()
        await bench.seen()
        assert bench.job["status"]["phase"] == "Running"
        (attempt,) = bench.job["status"]["stages"][0]["attempts"]
        child = bench.server.get(TRAIN_JOBS, "ns", C1)
        assert child is not None
        assert attempt["jobRef"]["uid"] == child["metadata"]["uid"]
        pod(bench, "Succeeded")
        await bench.seen()
        await bench.reconcile()
        await bench.seen()
        assert bench.job["status"]["phase"] == "Succeeded"
        made = [line for line in writes(bench.server) if "/events" not in line]
        job = "/apis/florence.dev/v1alpha1/namespaces/ns/florencejobs/j"
        assert made == [
            f"POST {ROOT}/trainingruntimes",
            f"POST {ROOT}/trainjobs",
            f"PUT {job}/status",
            f"PUT {job}/status",
            f"PUT {job}/status",
            f"DELETE {ROOT}/trainjobs/{C1}",
            f"DELETE {ROOT}/trainingruntimes/{C1}",
        ]
        assert not bench.server.all(TRAIN_JOBS) + bench.server.all(TRAINING_RUNTIMES)

    run(single(), check)


@pytest.mark.parametrize("spec", ["the same", "another"])
def test_a_runtime_that_an_operator_left_that_died_is_made_anew(spec: str) -> None:
    async def check(bench: Bench) -> None:
        bench.server.fail(0, method="POST", path="trainjobs", times=9)
        with pytest.raises(ApiError):
            await bench.reconcile()
        (old,) = bench.server.all(TRAINING_RUNTIMES)
        bench.server.before.clear()
        if spec == "another":
            bench.server.put({**old, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}})
        await bench.reconcile()
        (runtime,), (child,) = (
            bench.server.all(TRAINING_RUNTIMES),
            bench.server.all(TRAIN_JOBS),
        )
        assert child["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"] == C1
        assert runtime["spec"] == old["spec"]
        assert runtime["metadata"]["uid"] != old["metadata"]["uid"]

    run(single(), check)


def test_another_s_runtime_of_the_name_is_left_and_waited_for() -> None:
    async def check(bench: Bench) -> None:
        theirs = {
            "apiVersion": "trainer.kubeflow.org/v1alpha1",
            "kind": "TrainingRuntime",
            "metadata": {"name": C1, "namespace": "ns"},
            "spec": {},
        }
        kept = bench.server.put(theirs)
        await bench.reconcile()
        stage = bench.job["status"]["stages"][0]
        assert stage["reason"] == "Refused"
        assert f"TrainingRuntime {C1} exists already" in stage["message"]
        assert bench.server.all(TRAINING_RUNTIMES) == [kept]
        assert not bench.server.all(TRAIN_JOBS)
        bench.server.remove(TRAINING_RUNTIMES, "ns", C1)
        await bench.reconcile()
        assert len(bench.server.all(TRAIN_JOBS)) == 1

    run(single(), check)


@pytest.mark.parametrize("orphan", [True, False])
def test_a_jobset_is_taken_away_only_when_it_belongs_to_nobody(orphan: bool) -> None:
    """``kubectl delete trainjob --cascade=orphan``, and one whose garbage is being collected."""

    async def check(bench: Bench) -> None:
        await bench.reconcile()
        pod(bench, "Running")
        await bench.seen()
        await bench.reconcile()
        child = bench.server.get(TRAIN_JOBS, "ns", C1)
        assert child is not None
        owner = {"kind": "TrainJob", "uid": child["metadata"]["uid"], "controller": True}
        bench.server.put(
            {
                "apiVersion": "jobset.x-k8s.io/v1alpha2",
                "kind": "JobSet",
                "metadata": {
                    "name": C1,
                    "namespace": "ns",
                    "ownerReferences": [] if orphan else [owner],
                },
            }
        )
        bench.server.remove(TRAIN_JOBS, "ns", C1)
        await bench.seen()
        bench.now += 60
        for _ in range(3):
            await bench.reconcile()
        (attempt,) = bench.job["status"]["stages"][0]["attempts"]
        assert attempt["cause"] == "ChildDeleted"
        assert bench.job["status"]["stages"][0]["state"] == "Recovering"
        assert bool(bench.server.all(JOB_SETS)) is not orphan

    run(single(), check)


def test_a_job_that_another_controller_manages_is_left_alone() -> None:
    async def check(bench: Bench) -> None:
        for _ in range(2):
            await bench.reconcile()
        assert not writes(bench.server)
        bench.server.remove(FLORENCE_JOBS, "ns", "j")

    run(single(managedBy="kueue.x-k8s.io/multikueue"), check)


def test_a_job_that_names_this_operator_is_run() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        assert len(bench.server.all(TRAIN_JOBS)) == 1

    run(single(managedBy="florence.dev/florence-operator"), check)


def test_a_kind_that_is_not_served_is_said_and_waited_for() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        stage = bench.job["status"]["stages"][0]
        assert (stage["state"], stage["reason"]) == ("Pending", "BackendNotServed")
        assert "pytorchjobs.kubeflow.org" in stage["message"]
        assert not bench.server.all(TRAINING_RUNTIMES)

    document = single()
    document["spec"]["runPolicy"] = {"backend": "PyTorchJob"}
    run(document, check)
