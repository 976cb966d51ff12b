"""The README's cluster section: the sample job, and what each tool shows of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from florence.storage import Storage
from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, eventually, florencectl, forwarded, kubectl

ROOT = Path(__file__).parents[2]
NAME = "digits-cluster"


@pytest.mark.either_backend
def test_the_sample_trains_across_two_nodes_and_tells_its_accuracy(
    artifacts: Callable[[str], Storage],
) -> None:
    assert jobs.submit_file(ROOT / "jobs/samples/digits-cluster.yaml") == NAME
    jobs.wait_for(NAME, "Running", timeout=180)
    pods = eventually("two pods", lambda: _placed(2), timeout=60)
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 2
    for pod in pods:
        _expect_restricted(pod)
    assert "mixed" in kubectl("-n", NAMESPACE, "get", "fj", NAME)
    logs = ("logs", NAME, "-n", NAMESPACE, "--tail=50")
    eventually("the log tells of steps", lambda: "Step " in florencectl(*logs), timeout=120)
    assert NAME in florencectl("why", NAME, "-n", NAMESPACE)
    florencectl("wait", NAME, "-n", NAMESPACE, "--for=succeeded", "--timeout=15m")

    status = jobs.status(NAME)
    stages = {stage["name"]: stage for stage in status["stages"]}
    assert stages["zero-shot"]["metrics"]["digits/top1"] >= 0.97
    assert stages["probe"]["metrics"]["linear-probe/top1"] >= 0.96
    assert [len(stage["attempts"]) for stage in status["stages"]] == [1, 1, 1, 1]
    kinds = {attempt["jobRef"]["kind"] for s in status["stages"] for attempt in s["attempts"]}
    assert len(kinds) == 1
    assert jobs.BACKEND in ("auto", *kinds)
    assert all(stage["mlflowRun"] for stage in status["stages"])
    _expect_mlflow_run(stages["mixed"]["mlflowRun"])
    jobs.expect_nothing_left(NAME)

    table = kubectl("-n", NAMESPACE, "get", "fj", NAME, "-o", "wide")
    for column in ("STATE", "STAGE", "PROGRESS", "ETA", "LOSS", "ATTEMPTS", "AGE", "GPU-HOURS"):
        assert column in table
    assert "Succeeded" in table
    assert "100%" in table
    described = kubectl("-n", NAMESPACE, "describe", "fj", NAME)
    assert "Succeeded" in described.split("Events:")[1]
    assert json.loads(florencectl("get", NAME, "-n", NAMESPACE, "-o", "json"))["kind"]

    kept = artifacts(stages["mixed"]["attempts"][0]["logs"])
    assert {entry.key for entry in kept.list()} == {"worker-0.log", "worker-1.log"}
    jobs.delete(NAME)


def _placed(count: int) -> list[dict[str, object]]:
    placed = [pod for pod in jobs.pods(NAME) if pod["spec"].get("nodeName")]
    return placed if len(placed) == count else []


def _expect_restricted(pod: dict[str, object]) -> None:
    spec = pod["spec"]
    assert isinstance(spec, dict)
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    for variable in container["env"]:
        if variable["name"].startswith("AWS_"):
            assert "secretKeyRef" in variable["valueFrom"]


def _expect_mlflow_run(run: str) -> None:
    with forwarded("mlflow", 5000) as address:
        # MLflow answers only to the names that it knows.
        request = urllib.request.Request(
            f"{address}/api/2.0/mlflow/runs/get?run_id={run}", headers={"Host": "mlflow:5000"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            data = json.load(answer)["run"]["data"]
    assert "train/loss" in {metric["key"] for metric in data["metrics"]}
