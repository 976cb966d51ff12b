"""One field for every gang scheduler, and one for the topology: what each backend makes of them."""

from __future__ import annotations

from typing import Any

import pytest

from florence_operator.backends.pytorchjob import PyTorchJobs
from florence_operator.backends.trainjob import TrainJobs
from florence_operator.build.children import attempt_objects
from tests.operator.build.test_children import SETTINGS, SMALL, job

RACK = "cloud.example.com/rack"


def made(backend: Any, **policy: Any) -> list[dict[str, Any]]:
    subject = job({**SMALL, "runPolicy": policy})
    return attempt_objects(subject, subject.spec.stages[0], 1, SETTINGS, backend)


def pytorch_job(**policy: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The run policy, and the pods' template."""
    (document,) = made(PyTorchJobs(), **policy)
    spec = document["spec"]
    return spec["runPolicy"], spec["pytorchReplicaSpecs"]["Worker"]["template"]


def train_job(**policy: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pod group policy, and the pods' template."""
    spec = made(TrainJobs(), **policy)[0]["spec"]
    (node,) = spec["template"]["spec"]["replicatedJobs"]
    return spec.get("podGroupPolicy", {}), node["template"]["spec"]["template"]


@pytest.mark.parametrize("policy", [{}, {"gang": "none"}, {"queue": "q"}], ids=str)
def test_without_a_gang_scheduler_the_pods_are_the_clusters_schedulers(policy: Any) -> None:
    run_policy, template = pytorch_job(**policy)
    assert run_policy == {"cleanPodPolicy": "Running"}
    assert "schedulerName" not in template["spec"]
    group, template = train_job(**policy)
    assert group == {}
    assert "schedulerName" not in template["spec"]


@pytest.mark.parametrize(
    ("gang", "scheduler", "group"),
    [
        ("volcano", "volcano", {"volcano": {}}),
        ("scheduler-plugins", "scheduler-plugins-scheduler", {"coscheduling": 3600}),
        ("coscheduling", None, {"coscheduling": 3600}),
    ],
)
def test_a_gang_has_its_scheduler_and_a_pod_group_of_all_of_its_pods(
    gang: str, scheduler: str | None, group: dict[str, Any]
) -> None:
    run_policy, template = pytorch_job(gang=gang)
    assert run_policy["schedulingPolicy"] == {"minAvailable": 2}
    assert template["spec"].get("schedulerName") == scheduler
    found, template = train_job(gang=gang)
    assert template["spec"].get("schedulerName") == scheduler
    short = {name: inner.get("scheduleTimeoutSeconds", inner) for name, inner in found.items()}
    assert short == group


@pytest.mark.parametrize("word", ["required", "preferred"])
def test_kueue_reads_the_topology_on_the_pods(word: str) -> None:
    for _, template in (
        pytorch_job(queue="q", topology={word: RACK}),
        train_job(queue="q", topology={word: RACK}),
    ):
        asked = {k: v for k, v in template["metadata"]["annotations"].items() if "kueue" in k}
        assert asked == {f"kueue.x-k8s.io/podset-{word}-topology": RACK}


@pytest.mark.parametrize(("word", "mode"), [("required", "hard"), ("preferred", "soft")])
def test_volcano_reads_the_topology_in_the_pod_group(word: str, mode: str) -> None:
    group, template = train_job(gang="volcano", topology={word: "2"})
    expected = {"networkTopology": {"mode": mode, "highestTierAllowed": 2}}
    assert group == {"volcano": expected}
    assert not [key for key in template["metadata"]["annotations"] if "kueue" in key]


def test_what_does_not_matter_to_the_pods_is_no_other_spec() -> None:
    """A queue by itself changes what the child is, and the plan and the pods stay as they were."""
    assert pytorch_job(queue="q") == pytorch_job(queue="q", gang="kueue")
