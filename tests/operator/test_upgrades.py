"""From the release before to this one and back, with jobs in every state, on a stand-in server.

What that release left is recorded in ``stored/``. Nothing restarts, nothing is lost, and every
status stays readable for both: also by that release's own code, where git has it.
"""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from florence_operator.api import old_names
from florence_operator.api.crd import structural_schema
from florence_operator.api.status import JobStatus
from florence_operator.kube.client import PODS, PYTORCH_JOBS
from florence_operator.replica import make_caches
from tests.operator.api_semantics import pruned
from tests.operator.fake_apiserver import FakeApiServer
from tests.operator.reconcile.test_reconciler import Bench, writes
from tests.operator.simulated_cluster import SETTINGS

FOLDER = Path(__file__).parent / "stored"
ROOT = Path(__file__).parents[2]
PREVIOUS = "2313e2bbf02efe119aad1b4a20aa2c81176367fe"
STATES = sorted(path.stem for path in FOLDER.glob("*.json"))
AT_WORK = {"Starting", "Queued", "Running", "RunningAgain"}

Document = dict[str, Any]


def recorded(state: str) -> tuple[float, list[Document]]:
    found = json.loads((FOLDER / f"{state}.json").read_text())
    return found["now"], found["objects"]


def job_in(objects: list[Document]) -> Document:
    return next(each for each in objects if each["kind"] == "FlorenceJob")


def restored(server: FakeApiServer, objects: list[Document]) -> None:
    """The objects as an API server has them, uids and all."""
    for document in objects:
        group, _, _ = document["apiVersion"].rpartition("/")
        plural = {"FlorenceJob": "florencejobs", "PyTorchJob": "pytorchjobs", "Pod": "pods"}
        kind = group, plural[document["kind"]]
        key = document["metadata"]["namespace"], document["metadata"]["name"]
        # What is read from etcd is pruned by the schema of today.
        stored = pruned(document, server.schemas[kind]) if kind in server.schemas else document
        server.objects.setdefault(kind, {})[key] = stored
        server._version = max(server._version, int(document["metadata"]["resourceVersion"]))


def upgraded(state: str, check: Callable[[Bench], Awaitable[None]]) -> None:
    """Have today's operator find what the release before left, and look at it some times."""

    async def main() -> None:
        now, objects = recorded(state)
        async with FakeApiServer(collect_garbage=False) as server, server.client() as client:
            server.schemas["florence.dev", "florencejobs"] = structural_schema()
            restored(server, copy.deepcopy(objects))
            caches = await make_caches(client, SETTINGS.model_copy(update={"kueue": "off"}))
            tasks = [asyncio.create_task(informer.run()) for informer in caches.all()]
            await asyncio.gather(*(informer.synced.wait() for informer in caches.all()))
            server.requests.clear()
            bench = Bench(server, client, caches)
            bench.now = bench.hears_since = now
            try:
                for _ in range(4):
                    await bench.reconcile()
                    await bench.seen()
                await check(bench)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def attempts(job: Document) -> list[Document]:
    return [a for s in job.get("status", {}).get("stages", ()) for a in s.get("attempts", ())]


def told(job: Document) -> dict[str, Any]:
    """What the release before says of a job, under its own names."""
    status = job.get("status") or {}
    names = [*old_names.ATTEMPT.values(), "child", "number", "cause", "stopping", "exitCode"]
    names += ["restoredStep", "step", "pod", "node"]
    return {
        "phase": status.get("phase"),
        "states": [stage["state"] for stage in status.get("stages", ())],
        **{name: status.get(name) for name in old_names.JOB.values()},
        "stages": [
            {name: stage.get(name) for name in old_names.STAGE.values()}
            for stage in status.get("stages", ())
        ],
        "attempts": [{name: a.get(name) for name in names} for a in attempts(job)],
        "checkpoints": [
            (stage.get("progress") or {}).get("checkpoint") for stage in status.get("stages", ())
        ],
    }


def test_every_state_is_recorded() -> None:
    phases = {job_in(recorded(state)[1])["status"]["phase"] for state in STATES}
    assert phases == {
        *("Pending", "Queued", "Starting", "Running", "Stalled", "Recovering"),
        *("Suspended", "Succeeded", "Failed"),
    }


@pytest.mark.parametrize("state", STATES)
def test_nothing_restarts_and_nothing_is_lost(state: str) -> None:
    _, objects = recorded(state)
    before = job_in(objects)

    async def check(bench: Bench) -> None:
        after = bench.job
        if state == "Pending":
            # The server that refused its child is not there any more.
            assert after["status"]["phase"] == "Starting"
            return
        assert told(after) == told(before)
        kept = {o["metadata"]["uid"] for o in objects if o["kind"] == "PyTorchJob"}
        found = {child["metadata"]["uid"] for child in bench.server.all(PYTORCH_JOBS)}
        assert found == (kept if state in AT_WORK else set())
        assert {p["metadata"]["uid"] for p in bench.server.all(PODS)} == {
            o["metadata"]["uid"] for o in objects if o["kind"] == "Pod"
        }
        sent = writes(bench.server)
        assert not [each for each in sent if each.startswith("POST") and "events" not in each]
        assert sum("status" in each for each in sent) <= 1
        count = len(sent)
        await bench.reconcile()
        assert len(writes(bench.server)) == count

    upgraded(state, check)


@pytest.mark.parametrize("state", sorted(AT_WORK - {"Queued"}))
def test_an_attempt_of_the_release_before_ends_well(state: str) -> None:
    async def check(bench: Bench) -> None:
        (child,) = bench.server.all(PYTORCH_JOBS)
        number = child["metadata"]["labels"]["florence.dev/attempt"]
        bench.pod("Succeeded")
        pod, *_ = bench.server.all(PODS)
        for other in bench.server.all(PODS):
            bench.server.remove(PODS, "ns", other["metadata"]["name"])
        pod["metadata"] |= {
            "name": f"{child['metadata']['name']}-worker-0",
            "labels": {**pod["metadata"]["labels"], "florence.dev/attempt": number},
            "ownerReferences": [{"uid": child["metadata"]["uid"], "controller": True}],
        }
        bench.server.put({**pod, "status": {"phase": "Succeeded"}})
        for _ in range(3):
            await bench.seen()
            await bench.reconcile()
        assert bench.job["status"]["phase"] == "Succeeded"
        last = attempts(bench.job)[-1]
        assert (last["number"], last["exitCode"]) == (int(number), 0)
        assert last["completionTime"] == last["ended"]
        spent = bench.job["status"]["goodput"]
        begun = JobStatus.model_validate(bench.job["status"]).stages[0].attempts[0].start_time
        assert spent["until"] > str(begun)

    upgraded(state, check)


_READ = """
import json, sys
from florence_operator.api.status import JobStatus
for line in sys.stdin:
    status = JobStatus.model_validate(json.loads(line))
    attempts = [a for stage in status.stages for a in stage.attempts]
    print(json.dumps({
        "phase": status.phase.value,
        "states": [stage.state.value for stage in status.stages],
        "attempts": [[a.number, a.child, a.started, a.running, a.ended] for a in attempts],
        "kept": json.loads(json.dumps(status.stored())) == json.loads(line),
    }))
"""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The release before, out of git's history."""
    packed = subprocess.run(
        ["git", "archive", PREVIOUS, "operator", "florence"], cwd=ROOT, capture_output=True
    )
    if packed.returncode:
        pytest.skip(f"git has no commit {PREVIOUS[:7]} here: the history is not whole")
    folder = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.slow
def test_the_release_before_reads_what_this_one_wrote(previous: Path) -> None:
    stored: list[Document] = []

    async def keep(bench: Bench) -> None:
        stored.append(bench.job["status"])

    for state in STATES:
        upgraded(state, keep)
    read = subprocess.run(
        [sys.executable, "-c", _READ],
        input="\n".join(json.dumps(status) for status in stored),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{previous}/operator{os.pathsep}{previous}"},
        cwd=previous,
    )
    assert read.returncode == 0, read.stderr
    found = [json.loads(line) for line in read.stdout.splitlines()]
    assert [each["phase"] for each in found] == [status["phase"] for status in stored]
    for each, status in zip(found, stored, strict=True):
        assert each["attempts"] == [
            [a["number"], a["child"], a["started"], a.get("running"), a.get("ended")]
            for a in attempts({"status": status})
        ]
        # What it does not know stays where it is, and is here when this release is back.
        assert each["kept"]
