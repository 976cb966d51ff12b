"""What the caches drop must not change what is observed."""

from __future__ import annotations

from typing import Any, cast

import pytest

from florence_operator.api.attempt_pods import pod_from
from florence_operator.backends.pytorchjob import PyTorchJobs
from florence_operator.backends.registry import child_from
from florence_operator.observe.caches import BY_JOB, Caches, slim_node, slim_pod
from florence_operator.observe.children import Children
from florence_operator.observe.nodes import node_from
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.store import Key

LABELS = {"florence.dev/job": "j", "florence.dev/stage": "s", "florence.dev/attempt": "2"}
POD: dict[str, Any] = {
    "metadata": {"name": "p", "uid": "u", "labels": LABELS, "resourceVersion": "7"},
    "spec": {"nodeName": "n", "containers": [{"name": "pytorch", "env": [{"name": "A"}] * 50}]},
    "status": {
        "phase": "Failed",
        "containerStatuses": [
            {"name": "pytorch", "state": {"terminated": {"exitCode": 3, "message": "m"}}}
        ],
    },
}
CHILD = {
    "metadata": {"name": "c", "uid": "u", "labels": LABELS, "resourceVersion": "7"},
    "spec": {"runPolicy": {"suspend": True}, "pytorchReplicaSpecs": {"Worker": {"x": 1}}},
    "status": {"conditions": [{"type": "Failed", "status": "True", "message": "why"}]},
}
NODE = {
    "metadata": {"name": "n", "resourceVersion": "7", "annotations": {"a": "x" * 1000}},
    "spec": {"podCIDR": "x"},
    "status": {
        "images": [{"names": ["i"]}] * 50,
        "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-23T10:00:00Z"},
            {"type": "DiskPressure", "status": "False"},
        ],
    },
}


@pytest.mark.parametrize(
    ("document", "slim", "observe"),
    [
        (POD, slim_pod, pod_from),
        ({**POD, "spec": {}}, slim_pod, pod_from),
        (CHILD, PyTorchJobs().slim, child_from),
        ({**CHILD, "spec": {}}, PyTorchJobs().slim, child_from),
        (NODE, slim_node, node_from),
    ],
)
def test_a_slim_document_is_observed_as_the_whole_one(
    document: dict[str, Any], slim: Any, observe: Any
) -> None:
    kept = slim(document)
    assert observe(kept) == observe(document)
    assert kept["metadata"]["resourceVersion"] == "7"
    assert len(str(kept)) <= len(str(document)) + 60


def test_a_pod_is_kept_without_its_plan() -> None:
    metadata = {**POD["metadata"], "annotations": {"florence.dev/plan": "x" * 100_000}}
    assert len(str(slim_pod({**POD, "metadata": metadata}))) < 1_000


def pods_of(uid: str, *pods: dict[str, Any]) -> dict[str, str]:
    """The names of those that are the job's, and whose they are."""

    class Pods:
        def by_index(self, index: str, key: str) -> list[dict[str, Any]]:
            assert (index, key) == (BY_JOB, "ns/j")
            return list(pods)

    empty: Any = None
    caches = Caches(jobs=empty, children=Children(), pods=cast(Informer, Pods()))
    return {found.name: found.owner for found in caches.pods_of(Key("ns", "j"), uid)}


def pod(name: str, job: str = "new", child: str | None = None) -> dict[str, Any]:
    labels = {**LABELS, "florence.dev/job-uid": job}
    owners = [{"uid": child, "controller": True}] if child else []
    metadata = {**POD["metadata"], "name": name, "labels": labels, "ownerReferences": owners}
    return {**POD, "metadata": metadata}


def test_pods_of_a_namesake_are_not_the_jobs() -> None:
    assert list(pods_of("new", pod("mine"), pod("old", job="old"))) == ["mine"]


def test_pods_are_seen_with_what_they_belong_to() -> None:
    """All of them may hold GPUs; the word of those counts that the attempt's child controls."""
    pods = pod("mine", child="c1"), pod("anothers", child="c0"), pod("nobodys")
    assert pods_of("new", *pods) == {"mine": "c1", "anothers": "c0", "nobodys": ""}
