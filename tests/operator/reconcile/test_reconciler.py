"""The reconciler against a stand-in API server: which requests it makes, and what refusals do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from florence.config.progress import StageProgress
from florence_operator.build.names import child_name, removal_name
from florence_operator.kube.client import (
    EVENTS,
    FLORENCE_JOBS,
    JOBS,
    PODS,
    PYTORCH_JOBS,
    ApiError,
    Client,
)
from florence_operator.observe.caches import Caches
from florence_operator.progress.reports import Posted, ProgressBook
from florence_operator.reconcile.reconciler import Reconciler
from florence_operator.replica import make_caches
from florence_operator.runtime.controller import Result
from florence_operator.runtime.events import EventRecorder
from florence_operator.runtime.store import Key
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.simulated_cluster import SETTINGS, job_document

KEY = Key("ns", "j")
C1 = child_name("j", "c", 1)


def single(**changes: Any) -> dict[str, Any]:
    document = job_document()
    document["spec"]["stages"] = document["spec"]["stages"][2:]
    document["spec"].update(changes)
    return document


class Bench:
    """A server, the caches of one operator, and its reconciler, called by hand."""

    def __init__(self, server: FakeApiServer, client: Client, caches: Caches) -> None:
        self.server, self.client, self.caches = server, client, caches
        self.now = 1_800_000_000.0
        self.hears_since = self.now
        self.book = ProgressBook()
        self.changes = asyncio.Event()
        for informer in caches.all():
            informer.add_handler(lambda old, new: self.changes.set())
        events = EventRecorder(client, "florence", lambda: datetime.fromtimestamp(self.now, UTC))
        self.reconciler = Reconciler(
            client,
            caches,
            events,
            SETTINGS,
            self.book,
            clock=lambda: self.now,
            ca=lambda: "CA",
            hears_since=lambda: self.hears_since,
        )

    async def reconcile(self) -> Result:
        return await self.reconciler.reconcile(KEY)

    async def seen(self) -> None:
        """Wait until the caches hold what the server does."""
        async with asyncio.timeout(120):
            while not all(
                versions(self.server.all(informer.resource)) == versions(informer.all())
                for informer in self.caches.all()
            ):
                await self.changes.wait()
                self.changes.clear()

    @property
    def job(self) -> dict[str, Any]:
        document = self.server.get(FLORENCE_JOBS, "ns", "j")
        assert document is not None
        return document

    def condition(self) -> dict[str, Any]:
        conditions: list[dict[str, Any]] = self.job["status"]["conditions"]
        return next(c for c in conditions if c["type"] == "Running")

    def pod(self, phase: str, **status: Any) -> None:
        """The pod of attempt 1 in a phase."""
        labels = {
            "florence.dev/job": "j",
            "florence.dev/job-uid": self.job["metadata"]["uid"],
            "florence.dev/stage": "c",
            "florence.dev/attempt": "1",
            "training.kubeflow.org/replica-index": "0",
        }
        child = self.server.get(PYTORCH_JOBS, "ns", C1)
        owners = [{"uid": child["metadata"]["uid"], "controller": True}] if child else []
        metadata = {
            "name": f"{C1}-worker-0",
            "namespace": "ns",
            "labels": labels,
            "ownerReferences": owners,
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata}
        self.server.put({**pod, "spec": {}, "status": {"phase": phase, **status}})


def versions(documents: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(d["metadata"]["name"], d["metadata"]["resourceVersion"]) for d in documents}


def run(document: dict[str, Any], check: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakeApiServer(collect_garbage=False) as server, server.client() as client:
            server.put(document)
            settings = SETTINGS.model_copy(update={"kueue": "off"})
            caches = await make_caches(client, settings)
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


def writes(server: FakeApiServer) -> list[str]:
    return [f"{method} {path}" for method, path in server.requests if method != "GET"]


def test_an_undisturbed_job_costs_six_requests() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        await bench.seen()
        await bench.reconcile()
        bench.pod("Running")
        await bench.seen()
        await bench.reconcile()
        bench.pod("Succeeded")
        await bench.seen()
        for _ in range(3):
            await bench.reconcile()
        assert bench.job["status"]["phase"] == "Succeeded"
        made = [request.split()[0] for request in writes(bench.server)]
        assert made == ["POST", "PUT", "PUT", "PUT", "DELETE", "POST"]
        assert not bench.server.all(PYTORCH_JOBS)

    run(single(), check)


def test_a_job_that_ended_and_left_nothing_is_not_even_read() -> None:
    async def check(bench: Bench) -> None:
        # A spec that nobody can read shows that nobody tries.
        bench.server.put({**bench.job, "spec": {"stages": "nonsense"}})
        ended = {"phase": "Failed", "observedGeneration": bench.job["metadata"]["generation"]}
        bench.server.put({**bench.job, "status": ended})
        await bench.seen()
        assert await bench.reconcile() == Result()
        assert bench.job["status"] == ended
        assert not writes(bench.server)
        # A changed spec is looked at: it may be a request to try again.
        bench.server.put({**bench.job, "spec": {"stages": "other nonsense"}})
        await bench.seen()
        await bench.reconcile()
        assert writes(bench.server)

    run(single(), check)


def test_progress_is_written_once_an_interval() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        await bench.seen()
        await bench.reconcile()
        uid = bench.job["metadata"]["uid"]
        before = len(writes(bench.server))
        for step in range(1, 61):
            posted = Posted(
                namespace="ns",
                job="j",
                uid=uid,
                stage="c",
                attempt=1,
                progress=StageProgress(step=step, total=100),
            )
            bench.book.take(posted, bench.now)
            result = await bench.reconcile()
            assert result.requeue_after is not None
            bench.now += 1
        assert len(writes(bench.server)) - before == 3
        assert bench.job["status"]["summary"]["progress"] == "46%"

    run(single(), check)


def test_a_status_that_somebody_else_wrote_first_is_looked_at_again() -> None:
    async def check(bench: Bench) -> None:
        document = bench.job
        bench.server.put({**document, "metadata": {**document["metadata"], "labels": {"x": "y"}}})
        bench.caches.jobs.put(
            {**document, "metadata": {**document["metadata"], "resourceVersion": "9999"}}
        )
        result = await bench.reconcile()
        assert result.requeue_after == pytest.approx(0.1)
        assert "phase" not in (bench.job.get("status") or {})

    run(single(), check)


def test_a_quota_is_told_of_and_tried_again() -> None:
    async def check(bench: Bench) -> None:
        bench.server.fail(403, "QuotaExceeded", method="POST", path="pytorchjobs")
        with pytest.raises(ApiError, match="pytorchjobs"):
            await bench.reconcile()
        assert bench.condition()["reason"] == "Refused"
        assert "QuotaExceeded" in bench.condition()["message"]
        await bench.seen()
        await bench.reconcile()
        assert bench.job["status"]["phase"] == "Starting"
        assert [a["number"] for a in bench.job["status"]["stages"][0]["attempts"]] == [1]

    run(single(), check)


def test_an_invalid_child_fails_the_stage() -> None:
    async def check(bench: Bench) -> None:
        bench.server.fail(422, "Invalid", method="POST", path="pytorchjobs")
        await bench.reconcile()
        assert bench.job["status"]["phase"] == "Failed"
        assert bench.job["status"]["stages"][0]["attempts"][0]["cause"] == "Rejected"
        await bench.seen()
        await bench.reconcile()

    run(single(), check)


def test_a_name_that_another_job_holds_is_waited_for() -> None:
    async def check(bench: Bench) -> None:
        labels = {"florence.dev/job": "j", "florence.dev/stage": "c", "florence.dev/attempt": "1"}
        owner = {"uid": "an-older-job", "controller": True, "name": "j"}
        metadata = {"name": C1, "namespace": "ns", "labels": labels}
        old = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "spec": {}}
        bench.server.put({**old, "metadata": {**metadata, "ownerReferences": [owner]}})
        await bench.seen()
        result = await bench.reconcile()
        assert result.requeue_after == 2
        assert bench.condition()["reason"] == "Refused"
        bench.server.remove(PYTORCH_JOBS, "ns", C1)
        await bench.seen()
        await bench.reconcile()
        assert bench.job["status"]["phase"] == "Starting"

    run(single(), check)


def test_a_job_that_cannot_be_read_says_which_field_is_wrong() -> None:
    document = single(stages=[{"name": "a", "pretrain": {"data": "s3://data/x", "stepz": 1}}])

    async def check(bench: Bench) -> None:
        assert await bench.reconcile() == Result()
        assert bench.condition()["reason"] == "InvalidSpec"
        assert "spec.stages.0.pretrain" in bench.condition()["message"]
        count = len(writes(bench.server))
        await bench.reconcile()
        assert len(writes(bench.server)) == count

    run(document, check)


def test_the_artifacts_of_a_deleted_job_go_first() -> None:
    artifacts = {"uri": "s3://bucket/runs", "deleteWithJob": True}

    async def check(bench: Bench) -> None:
        await bench.reconcile()
        assert bench.job["metadata"]["finalizers"] == ["florence.dev/artifacts"]
        await bench.client.delete(FLORENCE_JOBS, "j", "ns")
        await bench.seen()
        await bench.reconcile()
        await bench.seen()
        await bench.reconcile()
        removal = bench.server.get(JOBS, "ns", "j-removal")
        assert removal is not None
        done = {"conditions": [{"type": "Complete", "status": "True"}]}
        bench.server.put({**removal, "status": done})
        await bench.reconcile()
        job = bench.server.get(FLORENCE_JOBS, "ns", "j")
        assert job is None or job["metadata"].get("finalizers") in (None, [])
        assert not bench.server.all(PODS)

    run(single(artifacts=artifacts), check)


@pytest.mark.parametrize(
    ("owner", "kept"),
    [
        ({"kind": "FlorenceJob", "name": "j", "uid": "a-namesake"}, True),
        ({"kind": "CronJob", "name": "nightly", "uid": "c"}, False),
        (None, False),
    ],
)
def test_a_job_of_somebody_elses_has_not_removed_the_artifacts(
    owner: dict[str, Any] | None, kept: bool
) -> None:
    """What an older namesake left is garbage soon; a name that stays taken is told of."""
    artifacts = {"uri": "s3://bucket/runs", "deleteWithJob": True}

    async def check(bench: Bench) -> None:
        await bench.reconcile()
        foreign = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {
                "name": removal_name("j"),
                "namespace": "ns",
                "ownerReferences": [{**owner, "controller": True}] if owner else [],
            },
            "status": {"conditions": [{"type": "Complete", "status": "True"}]},
        }
        bench.server.put(foreign)
        await bench.client.delete(FLORENCE_JOBS, "j", "ns")
        await bench.seen()
        await bench.reconcile()
        told = [event["reason"] for event in bench.server.all(EVENTS)]
        assert (bench.server.get(FLORENCE_JOBS, "ns", "j") is not None) is kept
        assert ("ArtifactsLeft" in told) is not kept
        if kept:
            bench.server.remove(JOBS, "ns", removal_name("j"))
            await bench.reconcile()
            made = bench.server.get(JOBS, "ns", removal_name("j"))
            assert made is not None
            assert made["metadata"]["ownerReferences"][0]["uid"] == bench.job["metadata"]["uid"]

    run(single(artifacts=artifacts), check)
