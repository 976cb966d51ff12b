"""PyTorchJobs and TrainJobs on one cluster: the same parameters, and changing between them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, children_kinds, eventually, get, kubectl

Digest = Callable[[str], str]
KINDS = {
    "PyTorchJob": "pytorchjobs.kubeflow.org",
    "TrainJob": "trainjobs.trainer.kubeflow.org",
}

pytestmark = pytest.mark.either_backend


@pytest.fixture(autouse=True)
def both_are_served() -> None:
    if not set(KINDS.values()) <= set(children_kinds()):
        pytest.skip("the cluster serves one kind of children only")


def test_both_kinds_reach_the_same_parameters(parameters: Digest) -> None:
    names = {
        kind: jobs.submit(jobs.small_job(f"of-{kind.lower()}", backend=kind)) for kind in KINDS
    }
    for kind, name in names.items():
        jobs.wait_for(name, "Succeeded", timeout=500)
        assert jobs.child_kinds_of(name) == [kind]
    assert len({parameters(name) for name in names.values()}) == 1
    for name in names.values():
        jobs.expect_nothing_left(name)
        jobs.delete(name)


def test_a_live_child_is_followed_to_its_end_and_the_next_one_is_of_the_new_kind(
    undisturbed: str, parameters: Digest
) -> None:
    name = jobs.submit(jobs.small_job("changing", backend="PyTorchJob"))
    committed = jobs.wait_for_commit(name)
    child = jobs.attempts(name)[0]["jobRef"]
    patch = '{"spec": {"runPolicy": {"backend": "TrainJob"}}}'
    kubectl("-n", NAMESPACE, "patch", "fj", name, "--type=merge", "-p", patch)
    jobs.wait_for_commit(name, committed + jobs.EVERY_STEPS)
    assert jobs.child_kinds_of(name) == ["PyTorchJob"]
    found = get(KINDS["PyTorchJob"], child["name"])
    assert found is not None
    assert found["metadata"]["uid"] == child["uid"]
    victim = jobs.worker(name, 1)
    kubectl("-n", NAMESPACE, "delete", "pod", victim, "--force", "--grace-period=0")
    eventually(
        "the next attempt is a TrainJob",
        lambda: jobs.child_kinds_of(name) == ["PyTorchJob", "TrainJob"],
        timeout=120,
    )
    jobs.wait_for(name, "Succeeded", timeout=500)
    assert jobs.attempts(name)[1]["restoredStep"] >= committed
    assert parameters(name) == undisturbed
    jobs.expect_nothing_left(name)
    jobs.delete(name)


@pytest.mark.parametrize("kind", list(KINDS))
def test_what_an_orphaning_deletion_leaves_is_taken_away(
    kind: str, undisturbed: str, parameters: Digest
) -> None:
    """``kubectl delete --cascade=orphan``: pods of nobody must not train beside the next ones."""
    name = jobs.submit(jobs.small_job(f"orphaned-{kind.lower()}", backend=kind))
    jobs.wait_for_commit(name)
    child = jobs.attempts(name)[0]["jobRef"]["name"]
    kubectl("-n", NAMESPACE, "delete", KINDS[kind], child, "--cascade=orphan")
    jobs.wait_for(name, "Succeeded", timeout=500)
    first, second = jobs.attempts(name)
    assert first["cause"] == "ChildDeleted"
    assert second["startTime"] >= first["completionTime"]
    assert parameters(name) == undisturbed
    # A TrainingRuntime whose TrainJob somebody else deleted goes with the job.
    eventually(
        "nothing runs any more",
        lambda: not [each for each in jobs.leftovers(name) if "trainingruntime" not in each],
        timeout=90,
    )
    jobs.delete(name)
