"""What goes wrong, caused for real, and how each ends: with nothing lost but the steps since the
last commit, and the same parameters as if nothing had happened."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.e2e import jobs
from tests.e2e.kube import (
    NAMESPACE,
    SYSTEM,
    KubectlError,
    Machine,
    apply,
    eventually,
    items,
    kubectl,
)

Digest = Callable[[str], str]


@pytest.mark.either_backend
@pytest.mark.brief
def test_a_killed_pod_costs_the_steps_since_the_last_commit(
    undisturbed: str, parameters: Digest
) -> None:
    name = jobs.submit(jobs.small_job("killed-pod"))
    committed = jobs.wait_for_commit(name, 20)
    victim = jobs.worker(name, 1)
    kubectl("-n", NAMESPACE, "delete", "pod", victim, "--force", "--grace-period=0")
    jobs.wait_for(name, "Succeeded", timeout=400)
    first, second = jobs.attempts(name)
    assert first["cause"] in ("PodDeleted", "Killed", "Stopped", "TryAgain")
    assert second["restoredStep"] >= committed
    assert parameters(name) == undisturbed
    jobs.expect_nothing_left(name)
    jobs.delete(name)


def test_the_program_that_is_killed_is_named(undisturbed: str, parameters: Digest) -> None:
    name = jobs.submit(jobs.small_job("killed-process"))
    jobs.wait_for_commit(name)
    pod = jobs.worker(name, 1)
    # The training process alone: the pod's first process lives to tell.
    script = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if words[1:3] == ['-u', '-m'] and 'florence_jobs.main' in words:\n"
        "        os.kill(int(pid), signal.SIGKILL)\n"
    )
    kubectl("-n", NAMESPACE, "exec", pod, "--", "python", "-c", script)
    jobs.wait_for(name, "Succeeded", timeout=400)
    first, _ = jobs.attempts(name)
    assert (first["cause"], first["exitCode"], first["pod"]) == ("Killed", 137, pod)
    assert first["lastLines"]
    assert parameters(name) == undisturbed
    jobs.delete(name)


def test_a_lost_operator_loses_nothing(undisturbed: str, parameters: Digest) -> None:
    name = jobs.submit(jobs.small_job("lost-operator"))
    jobs.wait_for_commit(name)
    lease = kubectl("-n", SYSTEM, "get", "lease", "florence-operator", "-o", "json")
    assert "florence-operator" in lease
    kubectl(
        *("-n", SYSTEM, "delete", "pods", "-l", "app.kubernetes.io/name=florence-operator"),
        *("--force", "--grace-period=0"),
    )
    jobs.wait_for(name, "Succeeded", timeout=400)
    assert len(jobs.attempts(name)) == 1
    assert parameters(name) == undisturbed
    jobs.delete(name)


def test_a_lost_leader_is_followed(undisturbed: str, parameters: Digest) -> None:
    name = jobs.submit(jobs.small_job("lost-leader"))
    jobs.wait_for_commit(name)

    def holder() -> str:
        return kubectl(
            *("-n", SYSTEM, "get", "lease", "florence-operator"),
            *("-o", "jsonpath={.spec.holderIdentity}"),
        )

    leader = holder()
    kubectl(*("-n", SYSTEM, "delete", "pod", leader.split("/")[0], "--force", "--grace-period=0"))
    eventually("another leader", lambda: holder() not in ("", leader), timeout=90)
    jobs.wait_for(name, "Succeeded", timeout=400)
    assert len(jobs.attempts(name)) == 1
    assert parameters(name) == undisturbed
    jobs.delete(name)


def test_a_stalled_attempt_is_replaced(undisturbed: str, parameters: Digest) -> None:
    name = jobs.submit(jobs.small_job("stalled", stallTimeout="60s", gracePeriod="20s"))
    jobs.wait_for_commit(name)
    pod = jobs.worker(name, 0)
    script = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{pid}/cmdline').read().split(chr(0))\n"
        "    if words[1:3] == ['-u', '-m'] and 'florence_jobs.main' in words:\n"
        "        os.kill(int(pid), signal.SIGSTOP)\n"
    )
    kubectl("-n", NAMESPACE, "exec", pod, "--", "python", "-c", script)
    jobs.wait_for(name, "Succeeded", timeout=500)
    first, second = jobs.attempts(name)
    assert first["cause"] == "Stalled"
    assert "rank " in first["message"]  # where its ranks were
    assert second["restoredStep"] >= jobs.EVERY_STEPS
    assert parameters(name) == undisturbed
    jobs.delete(name)


def test_storage_that_is_silent_for_a_minute_is_waited_for(
    machine: Machine, undisturbed: str, parameters: Digest
) -> None:
    name = jobs.submit(jobs.small_job("silent-storage"))
    jobs.wait_for_commit(name)
    machine.freeze("minio")
    try:
        time.sleep(60)
    finally:
        machine.thaw("minio")
    jobs.wait_for(name, "Succeeded", timeout=500)
    assert parameters(name) == undisturbed
    jobs.delete(name)


@pytest.mark.parametrize("how", [pytest.param("kill", marks=pytest.mark.either_backend), "cut"])
def test_a_lost_node_is_replaced_and_its_zombies_are_fenced(
    how: str, machine: Machine, undisturbed: str, parameters: Digest
) -> None:
    name = jobs.submit(jobs.small_job(f"node-{how}", steps=jobs.STEPS))
    jobs.wait_for_commit(name)
    on = {p["spec"]["nodeName"] for p in jobs.pods(name)}
    assert on == {"node1", "node2"}, on
    machine(how, 2)
    try:
        eventually(
            "a second attempt runs",
            lambda: len(jobs.attempts(name)) == 2 and jobs.attempts(name)[1].get("podsReadyTime"),
            timeout=300,
        )
        assert jobs.attempts(name)[0]["cause"] in ("NodeLost", "TryAgain")
        if how == "cut":  # both are alive: mend the network while the second one trains
            jobs.wait_for_commit(name, 2 * jobs.EVERY_STEPS)
    finally:
        machine("start" if how == "kill" else "mend", 2)
    jobs.wait_for(name, "Succeeded", timeout=500)
    assert parameters(name) == undisturbed
    eventually("node 2 is back", lambda: _ready("node2"), timeout=180)
    jobs.expect_nothing_left(name, timeout=300)
    jobs.delete(name)


def _ready(node: str) -> bool:
    text = kubectl(
        *("get", "node", node),
        *("-o", 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'),
    )
    return text == "True"


def test_an_image_that_does_not_exist_fails_with_the_reason() -> None:
    job = jobs.small_job("bad-image", startDeadline="20s")
    job["spec"]["image"] = "florence-jobs:no-such-tag"
    name = jobs.submit(job)
    status = jobs.wait_for(name, "Failed", timeout=180)
    (attempt,) = status["stages"][0]["attempts"]
    assert attempt["cause"] == "ImagePullFailed"
    failed = next(c for c in status["conditions"] if c["type"] == "Failed")
    assert "no-such-tag" in failed["message"]
    jobs.expect_nothing_left(name)
    jobs.delete(name)


def test_pods_that_fit_nowhere_fail_with_the_schedulers_words() -> None:
    job = jobs.small_job("no-room", startDeadline="15s")
    job["spec"]["stages"][0]["resources"]["memory"] = "4000Gi"
    name = jobs.submit(job)
    status = jobs.wait_for(name, "Failed", timeout=180)
    (attempt,) = status["stages"][0]["attempts"]
    assert attempt["cause"] == "Unschedulable"
    assert "Insufficient memory" in attempt["message"]
    jobs.delete(name)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("learningRate", 0.1, "learningRate"),
        ("batchSize", -1, "spec.stages[0].pretrain.batchSize"),
        ("optimizer", {"lr": "fast"}, "spec.stages[0].pretrain.optimizer.lr"),
    ],
)
def test_a_bad_hyperparameter_is_refused_with_its_path(
    field: str, value: object, said: str
) -> None:
    job = jobs.small_job("bad-field")
    job["spec"]["stages"][0]["pretrain"][field] = value
    with pytest.raises(KubectlError) as refused:
        apply(job)
    assert said in str(refused.value)
    assert not [j for j in items("fj") if j["metadata"]["name"] == "bad-field"]


def test_a_wrong_setting_that_only_the_stage_finds_is_not_retried() -> None:
    job = jobs.small_job("no-data")
    job["spec"]["stages"][0]["pretrain"]["data"] = "s3://florence/digits/nowhere"
    name = jobs.submit(job)
    status = jobs.wait_for(name, "Failed", timeout=240)
    (attempt,) = status["stages"][0]["attempts"]
    assert attempt["cause"] == "UnusableData"
    assert attempt["exitCode"] == 3
    assert "s3://florence/digits/nowhere" in attempt["message"]
    jobs.expect_nothing_left(name)
    jobs.delete(name)


@pytest.mark.either_backend
def test_suspend_checkpoints_first_and_resume_restores(
    undisturbed: str, parameters: Digest
) -> None:
    name = jobs.submit(jobs.small_job("suspended"))
    committed = jobs.wait_for_commit(name)
    _suspend(name, True)
    jobs.wait_for(name, "Suspended", timeout=120)
    jobs.expect_nothing_left(name)
    time.sleep(5)
    assert jobs.phase(name) == "Suspended"
    _suspend(name, False)
    jobs.wait_for(name, "Succeeded", timeout=400)
    first, second = jobs.attempts(name)
    assert first["cause"] == "Suspended"
    # The checkpoint of the stop itself, not the last regular one.
    assert second["restoredStep"] > committed
    assert parameters(name) == undisturbed
    jobs.delete(name)


def _suspend(name: str, suspend: bool) -> None:
    patch = f'{{"spec": {{"runPolicy": {{"suspend": {str(suspend).lower()}}}}}}}'
    kubectl("-n", NAMESPACE, "patch", "fj", name, "--type=merge", "-p", patch)


def test_a_deleted_job_leaves_nothing_and_artifacts_only_stay_unless_asked(
    artifacts: Callable[[str], object],
) -> None:
    kept = jobs.submit(jobs.small_job("kept"))
    gone_job = jobs.small_job("gone")
    gone_job["spec"]["artifacts"]["deleteWithJob"] = True
    gone = jobs.submit(gone_job)
    folders = {}
    for name in (kept, gone):
        jobs.wait_for_commit(name)
        checkpoint = jobs.stage(name)["progress"]["checkpoint"]
        folders[name] = checkpoint.split("/mixed/")[0]
    for name in (kept, gone):
        jobs.delete(name)
    keys = {name: artifacts(uri).list() for name, uri in folders.items()}  # type: ignore[attr-defined]
    assert keys[kept]
    assert not keys[gone]
