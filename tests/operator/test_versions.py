"""Objects that another version wrote, and caches that are behind, against a stand-in API server."""

from __future__ import annotations

import asyncio
import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from florence_operator.api.manifest import from_cluster, from_store
from florence_operator.api.times import timestamp
from florence_operator.build.pod_template import PLAN_ANNOTATION
from florence_operator.kube.client import EVENTS, FLORENCE_JOBS, JOBS, PODS, PYTORCH_JOBS, SERVICES
from florence_operator.progress.reports import News, Posted, ProgressBook
from florence_operator.progress.server import StageProgress
from florence_operator.reconcile.reconciler import Reconciler
from florence_operator.replica import make_caches
from florence_operator.runtime.controller import Result
from florence_operator.runtime.events import EventRecorder
from tests.operator.reconcile.test_reconciler import C1, KEY, Bench, run, single, writes
from tests.operator.simulated_cluster import SETTINGS

KEPT = {"uri": "s3://bucket/runs", "deleteWithJob": True}


async def rounds(bench: Bench, count: int = 3) -> Result:
    result = Result()
    for _ in range(count):
        await bench.seen()
        result = await bench.reconcile()
    await bench.seen()
    return result


def put(bench: Bench, **parts: Any) -> None:
    bench.server.put({**bench.job, **parts})


def stage(bench: Bench) -> dict[str, Any]:
    first: dict[str, Any] = bench.job["status"]["stages"][0]
    return first


def events(bench: Bench) -> list[str]:
    return [event["reason"] for event in bench.server.all(EVENTS)]


def test_a_finished_job_of_a_newer_version_is_not_run_again() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        status = copy.deepcopy(bench.job["status"])
        attempts = [
            {
                "number": number,
                "child": f"{C1[:-1]}{number}",
                "started": timestamp(bench.now - 9e4),
                "ended": timestamp(bench.now - 8e4),
                "cause": "PodFailed" if number == 7 else "NodeLost",
            }
            for number in range(1, 8)
        ]
        status |= {"phase": "Failed", "ended": timestamp(bench.now)}
        status["stages"][0] |= {"state": "Failed", "attempts": attempts}
        bench.server.remove(PYTORCH_JOBS, "ns", C1)
        put(bench, status=status)
        await rounds(bench)
        assert bench.job["status"] == status
        assert not bench.server.all(PYTORCH_JOBS)

    run(single(runPolicy={"ttlAfterFinished": "7d"}), check)


def test_an_attempt_of_the_last_release_goes_on() -> None:
    """Its child has another name, says nothing of its spec, and the status has none of the new."""

    async def check(bench: Bench) -> None:
        await bench.reconcile()
        (child,) = bench.server.all(PYTORCH_JOBS)
        bench.server.remove(PYTORCH_JOBS, "ns", C1)
        child["metadata"] |= {"name": "j-c-a1", "annotations": {}}
        child = bench.server.put(child)
        status = copy.deepcopy(bench.job["status"])
        status["stages"][0]["attempts"][0]["child"] = "j-c-a1"
        put(bench, status=status)
        bench.pod("Running")
        (pod,) = bench.server.all(PODS)
        pod["metadata"]["ownerReferences"] = [{"uid": child["metadata"]["uid"], "controller": True}]
        bench.server.put(pod)
        count = len(writes(bench.server))
        await rounds(bench)
        assert bench.job["status"]["phase"] == "Running"
        assert bench.server.all(PYTORCH_JOBS) == [child]
        assert len(writes(bench.server)) == count + 1  # the status
        bench.server.put({**pod, "status": {"phase": "Succeeded"}})
        await rounds(bench)
        assert bench.job["status"]["phase"] == "Succeeded"
        assert not bench.server.all(PYTORCH_JOBS)

    run(single(), check)


def test_a_status_that_cannot_be_read_is_never_written_over() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        status = {**bench.job["status"], "stages": {"c": {"state": "Running"}}}
        put(bench, status=status)
        before = bench.server.all(PYTORCH_JOBS)
        await rounds(bench)
        assert bench.job["status"] == status
        assert bench.server.all(PYTORCH_JOBS) == before
        assert "Unreadable" in events(bench)

    run(single(), check)


def test_unknown_fields_are_left_out_wherever_they_are() -> None:
    document = single()
    document["metadata"]["uid"] = "u"
    expected = from_cluster(document)
    newer = copy.deepcopy(document)
    newer["spec"]["novel"] = [1]
    newer["spec"]["pods"] = {"volumes": [], "novel": {"a": 1}}
    newer["spec"]["stages"][0]["resources"] = {"workers": 1, "novel": 1}
    newer["spec"]["stages"][0]["pretrain"]["loader"] = {"novel": True}
    assert from_store(newer).spec == expected.spec
    assert newer["spec"]["novel"] == [1]  # what a cache holds is not changed
    with pytest.raises(ValidationError, match="novel"):
        from_cluster(newer)
    newer["spec"]["stages"][0]["pretrain"]["steps"] = "many"
    with pytest.raises(ValidationError, match="steps"):
        from_store(newer)


def with_new_field(bench: Bench) -> None:
    """What the API server answers once the CRD of a newer version is there."""
    spec = copy.deepcopy(bench.job["spec"])
    spec["stages"][0]["pretrain"]["fieldOfTheNextVersion"] = 1
    spec["runPolicy"] = {"anotherOne": {"deep": True}}
    put(bench, spec=spec)


def test_a_live_job_goes_on_although_its_spec_has_fields_that_are_unknown_here() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        with_new_field(bench)
        await rounds(bench)
        assert bench.condition()["status"] == "True"
        bench.pod("Succeeded")
        await rounds(bench)
        assert bench.job["status"]["phase"] == "Succeeded"

    run(single(), check)


def test_the_artifacts_of_such_a_job_go_with_it() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        with_new_field(bench)
        await bench.client.delete(FLORENCE_JOBS, "j", "ns")
        await rounds(bench)
        assert bench.server.get(JOBS, "ns", "j-removal") is not None

    run(single(artifacts=KEPT), check)


def unreadable(bench: Bench) -> None:
    spec = copy.deepcopy(bench.job["spec"])
    spec["stages"][0]["pretrain"]["steps"] = "many"
    put(bench, spec=spec)


def test_an_attempt_whose_spec_cannot_be_read_is_let_alone() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        await rounds(bench)
        before = bench.server.all(PYTORCH_JOBS)
        unreadable(bench)
        await rounds(bench)
        assert bench.job["status"]["phase"] == "Running"
        assert (bench.condition()["status"], bench.condition()["reason"]) == ("True", "InvalidSpec")
        assert bench.server.all(PYTORCH_JOBS) == before

    run(single(), check)


def test_a_deleted_job_that_cannot_be_read_does_not_hold_its_namespace() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        unreadable(bench)
        await bench.client.delete(FLORENCE_JOBS, "j", "ns")
        await rounds(bench)
        assert bench.server.get(FLORENCE_JOBS, "ns", "j") is None
        assert "ArtifactsLeft" in events(bench)

    run(single(artifacts=KEPT), check)


def test_an_edit_between_child_and_status_is_not_overlooked() -> None:
    async def check(bench: Bench) -> None:
        bench.server.fail(409, "Conflict", method="PUT", path="status")
        await bench.reconcile()
        (old,) = bench.server.all(PYTORCH_JOBS)
        spec = copy.deepcopy(bench.job["spec"])
        spec["stages"][0]["resources"] = {"workers": 4}
        spec["stages"][0]["pretrain"]["steps"] = 777
        put(bench, spec=spec)
        await rounds(bench, 4)
        (new,) = bench.server.all(PYTORCH_JOBS)
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        worker = new["spec"]["pytorchReplicaSpecs"]["Worker"]
        annotations = worker["template"]["metadata"]["annotations"]
        assert worker["replicas"] == 4
        assert json.loads(annotations[PLAN_ANNOTATION])["config"]["steps"] == 777
        assert [a["number"] for a in stage(bench)["attempts"]] == [1]

    run(single(), check)


def test_a_node_that_has_just_come_is_asked_for() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        pod = bench.server.all(PODS)[0]
        bench.server.put({**pod, "spec": {"nodeName": "new"}})
        await bench.seen()
        bench.server.mute_watches()
        ready = [{"type": "Ready", "status": "True"}]
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "new"}}
        bench.server.put({**node, "status": {"conditions": ready}})
        await bench.reconcile()
        assert bench.job["status"]["phase"] == "Running"

    async def gone(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        pod = bench.server.all(PODS)[0]
        bench.server.put({**pod, "spec": {"nodeName": "never-there"}})
        await bench.seen()
        await bench.reconcile()
        assert stage(bench)["attempts"][0]["stopping"] == "NodeLost"

    run(single(), check)
    run(single(), gone)


def test_a_new_leader_with_old_caches_asks_before_it_acts() -> None:
    async def check(bench: Bench) -> None:
        standby = await make_caches(bench.client, SETTINGS.model_copy(update={"kueue": "off"}))
        tasks = [asyncio.create_task(informer.run()) for informer in standby.all()]
        await asyncio.gather(*(informer.synced.wait() for informer in standby.all()))
        await asyncio.sleep(0.05)
        for watch in bench.server.watches[-len(tasks) :]:
            watch.muted = True
        await bench.reconcile()
        bench.pod("Running")
        await rounds(bench)
        before = bench.job
        clock = lambda: bench.now + 100  # noqa: E731
        recorder = EventRecorder(bench.client, "f", lambda: datetime.fromtimestamp(clock(), UTC))
        leader = Reconciler(
            bench.client,
            standby,
            recorder,
            SETTINGS,
            ProgressBook(),
            clock=clock,
            ca=lambda: "CA",
            hears_since=clock,
        )
        for _ in range(4):
            await leader.reconcile(KEY)
        assert bench.job == before
        assert len(bench.server.all(PYTORCH_JOBS)) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(single(), check)


@pytest.mark.parametrize("ours", [True, False])
def test_a_child_that_no_cache_shows_is_neither_changed_nor_made_twice(ours: bool) -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        (child,) = bench.server.all(PYTORCH_JOBS)
        await bench.client.delete(PYTORCH_JOBS, C1, "ns")
        put(bench, status={})
        await bench.seen()
        bench.server.mute_watches()
        if not ours:
            child["metadata"]["ownerReferences"][0]["uid"] = "a-namesake"
            child["metadata"]["labels"]["florence.dev/job-uid"] = "a-namesake"
        there = bench.server.put(child)
        await bench.reconcile()
        assert bench.server.all(PYTORCH_JOBS) == [there]
        assert bench.job["status"]["phase"] == ("Starting" if ours else "Pending")
        assert stage(bench)["reason"] == ("PodsStarting" if ours else "Refused")

    run(single(), check)


def test_orphans_and_their_services_are_deleted_and_nobody_elses() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Running")
        await rounds(bench)
        for name, labels in (
            (f"{C1}-worker-0", {"training.kubeflow.org/job-name": C1}),
            (f"{C1}-worker-1", {"training.kubeflow.org/job-name": "another"}),
        ):
            metadata = {"name": name, "namespace": "ns", "labels": labels}
            bench.server.put({"apiVersion": "v1", "kind": "Service", "metadata": metadata})
        (pod,) = bench.server.all(PODS)
        other = copy.deepcopy(pod)
        other["metadata"] |= {"name": f"{C1}-worker-1", "uid": "", "ownerReferences": []}
        del other["metadata"]["uid"]
        pod["metadata"]["ownerReferences"] = []
        bench.server.put(pod)
        bench.server.put(other)
        bench.server.remove(PYTORCH_JOBS, "ns", C1)
        bench.now += 100
        await rounds(bench)
        assert not bench.server.all(PODS)
        left = [service["metadata"]["name"] for service in bench.server.all(SERVICES)]
        assert left == [f"{C1}-worker-1"]

    run(single(), check)


def test_what_is_left_of_a_finished_job_is_looked_for() -> None:
    async def check(bench: Bench) -> None:
        await bench.reconcile()
        bench.pod("Succeeded")
        await rounds(bench)
        assert bench.job["status"]["phase"] == "Succeeded"
        (pod,) = bench.server.all(PODS)
        pod["metadata"]["ownerReferences"] = []
        bench.server.put(pod)
        await rounds(bench)
        assert not bench.server.all(PODS)
        count = len(writes(bench.server))
        await rounds(bench)
        assert len(writes(bench.server)) == count

    run(single(), check)


def test_a_report_that_is_heard_again_is_looked_at() -> None:
    def posted(step: int) -> Posted:
        progress = StageProgress(step=step)
        return Posted(namespace="ns", job="j", uid="u", stage="c", attempt=1, progress=progress)

    book = ProgressBook(silence=120)
    assert book.take(posted(5), 0.0) is News.NOW
    assert book.take(posted(5), 100.0) is News.NONE
    report = book.of(KEY, "u")["c", 1]
    assert (report.received, report.heard) == (0.0, 100.0)
    # What passed while nothing was heard is no part of a stall.
    assert book.take(posted(5), 300.0) is News.NOW
    assert book.of(KEY, "u")["c", 1].received == 300.0
