"""The release before, jobs in every state, then this one, back, and this one again: on a cluster.

FLORENCE_E2E_PREVIOUS_OPERATOR names the image of that release's operator, where nodes pull from;
its CRD and manifests come out of git's history.
"""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, SYSTEM, eventually, items, kubectl

ROOT = Path(__file__).parents[2]
PREVIOUS = "2313e2bbf02efe119aad1b4a20aa2c81176367fe"
OURS = ("CustomResourceDefinition", "ClusterRole", "Role", "ConfigMap", "Deployment")
"""What differs between two releases of the operator; certificates and Lease stay."""

Digest = Callable[[str], str]
Document = dict[str, Any]


@pytest.fixture
def previous(tmp_path: Path) -> Iterator[Path]:
    """The overlay of these tests as it was, with that release's operator; undone at the end."""
    image = os.environ.get("FLORENCE_E2E_PREVIOUS_OPERATOR")
    if not image:
        pytest.skip("FLORENCE_E2E_PREVIOUS_OPERATOR names no image of the release before")
    packed = subprocess.run(
        ["git", "archive", PREVIOUS, "manifests", "tests/e2e/overlay", "jobs/samples"],
        cwd=ROOT,
        capture_output=True,
    )
    if packed.returncode:
        pytest.skip(f"git has no commit {PREVIOUS[:7]} here: the history is not whole")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    yield tmp_path / "tests/e2e/overlay"
    _install(ROOT / "tests/e2e/overlay")


def _job(name: str, **given: Any) -> Document:
    """A small job that the release before takes: it had no field for the backend."""
    made = jobs.small_job(name, **given)
    made["spec"]["runPolicy"].pop("backend", None)
    return made


def _install(overlay: Path, image: str | None = None) -> None:
    """Apply a release's operator, and wait until it is the one that works."""
    documents = []
    for document in yaml.safe_load_all(kubectl("kustomize", str(overlay))):
        namespaced = document["metadata"].get("namespace")
        if document["kind"] not in OURS or namespaced not in (None, SYSTEM):
            continue
        if document["kind"] == "Deployment" and image:
            for container in document["spec"]["template"]["spec"]["containers"]:
                container["image"] = image
        documents.append(document)
    given = yaml.safe_dump_all(documents)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=given)
    kubectl(
        *("-n", SYSTEM, "rollout", "status", "deployment/florence-operator", "--timeout=300s"),
        timeout=320,
    )


def _children(names: list[str]) -> dict[str, set[str]]:
    """The uids of each job's PyTorchJobs and pods that run."""
    found: dict[str, set[str]] = {name: set() for name in names}
    for kind in ("pytorchjobs", "pods"):
        for each in items(kind):
            name = (each["metadata"].get("labels") or {}).get("florence.dev/job")
            if name in found:
                found[name].add(each["metadata"]["uid"])
    return found


def _facts(name: str) -> list[Any]:
    """What must not change when nothing happens but another release."""
    job = jobs.status(name)
    stage = job["stages"][0]
    return [
        job["phase"],
        [(a["number"], a.get("cause"), a.get("exitCode")) for a in stage.get("attempts", ())],
        stage.get("model"),
        stage.get("metrics"),
    ]


def _go_on(names: list[str], change: Callable[[], None]) -> None:
    """Make a change of releases; no job may notice."""
    facts, children = {n: _facts(n) for n in names}, _children(names)
    change()
    running = [name for name in names if facts[name][0] == "Running"]
    steps = {name: jobs.stage(name)["progress"]["step"] for name in running}
    for name in running:
        eventually(
            f"{name} is heard by the other release",
            lambda name=name: jobs.stage(name)["progress"]["step"] > steps[name],
            timeout=120,
        )
    assert {n: _facts(n) for n in names} == facts
    assert _children(names) == children


def test_releases_change_under_jobs_in_every_state(
    previous: Path, undisturbed: str, parameters: Digest
) -> None:
    image = os.environ["FLORENCE_E2E_PREVIOUS_OPERATOR"]
    _install(previous, image)
    done = jobs.submit(_job("up-done", steps=40))
    jobs.wait_for(done, "Succeeded", timeout=400)
    bad = _job("up-bad")
    bad["spec"]["stages"][0]["pretrain"]["data"] = "s3://florence/digits/nowhere"
    failed = jobs.submit(bad)
    jobs.wait_for(failed, "Failed", timeout=240)
    paused = jobs.submit(_job("up-paused"))
    jobs.wait_for_commit(paused)
    patch = '{"spec": {"runPolicy": {"suspend": true}}}'
    kubectl("-n", NAMESPACE, "patch", "fj", paused, "--type=merge", "-p", patch)
    jobs.wait_for(paused, "Suspended", timeout=120)
    waits = _job("up-starting")
    waits["spec"]["stages"][0]["resources"]["memory"] = "4000Gi"
    starting = jobs.submit(waits)
    jobs.wait_for(starting, "Starting", timeout=60)
    running = jobs.submit(_job("up-running", steps=5 * jobs.STEPS))
    jobs.wait_for_commit(running)
    names = [done, failed, paused, starting, running]

    _go_on(names, lambda: _install(ROOT / "tests/e2e/overlay"))
    _go_on(names, lambda: _install(previous, image))
    _go_on(names, lambda: _install(ROOT / "tests/e2e/overlay"))

    kubectl(
        *("-n", NAMESPACE, "patch", "fj", paused, "--type=merge"),
        *("-p", '{"spec": {"runPolicy": {"suspend": false}}}'),
    )
    jobs.wait_for(paused, "Succeeded", timeout=500)
    assert parameters(paused) == undisturbed
    jobs.wait_for(running, "Succeeded", timeout=900)
    assert len(jobs.attempts(running)) == 1
    assert jobs.status(running)["goodput"]["productive"] > 0
    for name in names:
        jobs.delete(name)
