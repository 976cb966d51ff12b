"""The released component ``florence_job``, started as KFP starts it, against an API server."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")

from florence_jobs.pipelines.requests import named, requested
from florence_operator.kube.client import FLORENCE_JOBS
from tests.cli.cluster_server import ServedCluster, served_cluster
from tests.jobs.pipelines.component_process import Component, read_until
from tests.jobs.pipelines.test_cluster_jobs import JOB

pytestmark = pytest.mark.timeout(600)

PARAMETERS = {"run_id": "run-1", "task_name": "train", "job": JOB}
NAME = named(requested(JOB), "run-1", "train").metadata.name
TASK = {
    "resources": {"requests": {"cpu": "2"}, "limits": {"memory": "8Gi", "nvidia.com/gpu": "4"}},
    "nodeSelector": {"pool": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
    "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
    "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "shards"}}],
    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
}
"""As KFP's back end hands on what was set on the task."""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


@pytest.fixture
def component(tmp_path: Path) -> Component:
    return Component("florence-job", tmp_path / "outputs")


def environment(cluster: ServedCluster) -> dict[str, str]:
    return {"KUBECONFIG": str(cluster.kubeconfig)}


def jobs(cluster: ServedCluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.do(lambda server: server.all(FLORENCE_JOBS))
    return found


def end(cluster: ServedCluster, phase: str, **stage: Any) -> None:
    """What the operator would write."""

    def put(server: Any) -> None:
        document = server.get(FLORENCE_JOBS, "team", NAME)
        stages = [{"name": "mixed", "state": phase, **stage}]
        server.put({**document, "status": {"phase": phase, "stages": stages}})

    cluster.do(put)


def test_a_step_that_is_lost_with_its_node_goes_on_with_its_job(
    cluster: ServedCluster, component: Component
) -> None:
    parameters = {**PARAMETERS, "task_config": TASK}
    with component.started(parameters, environment(cluster)) as first:
        read_until(first, f"job {NAME}: Pending")
        os.killpg(first.pid, signal.SIGKILL)
    (document,) = jobs(cluster)
    with component.started(parameters, environment(cluster)) as second:
        read_until(second, f"job {NAME}: Pending")
        results = {"metrics": {"top1": 0.9}, "model": "s3://bucket/m/model", "mlflowRun": "r1"}
        end(cluster, "Succeeded", **results)
        assert "mixed: Succeeded, top1 0.9000" in read_until(second, "mixed: Succeeded")
        assert second.wait(300) == 0
    assert [each["metadata"]["uid"] for each in jobs(cluster)] == [document["metadata"]["uid"]]
    # What KFP hands to the next steps, and shows.
    assert component.parameters() == {
        "model_uri": "s3://bucket/m/model",
        "job_name": NAME,
        "mlflow_run": "r1",
        "results": {"top1": 0.9},
    }
    assert component.metadata("metrics")["top1"] == 0.9
    assert component.metadata("model") == {
        "uri": "s3://bucket/m/model", "job": NAME, "namespace": "team",
    }  # fmt: skip
    assert f"<h1>{NAME}</h1>" in component.artifact("report").read_text()
    assert "| top1 | 0.9000 |" in component.artifact("summary").read_text()
    # What was set on the task is the job's.
    spec = document["spec"]
    (stage,) = spec["stages"]
    assert stage["resources"] == {"cpu": "2", "memory": "8Gi", "gpusPerWorker": 4}
    assert spec["nodePool"]["selector"] == {"pool": "a100"}
    assert [each["key"] for each in spec["nodePool"]["tolerations"]] == ["nvidia.com/gpu"]
    assert spec["pods"]["environment"] == {"NCCL_DEBUG": "INFO"}
    (volume,) = spec["pods"]["volumes"]
    assert (volume["mountPath"], volume["persistentVolumeClaim"]) == ("/data", "shards")


def test_a_run_that_is_terminated_suspends_its_job(
    cluster: ServedCluster, component: Component
) -> None:
    """Argo signals the group of the step's processes."""
    with component.started(PARAMETERS, environment(cluster)) as step:
        read_until(step, f"job {NAME}: Pending")
        os.killpg(step.pid, signal.SIGTERM)
        said = read_until(step, "the run was terminated")
    assert f"job {NAME}: suspended after a checkpoint" in said
    (document,) = jobs(cluster)
    assert document["spec"]["runPolicy"]["suspend"] is True


def test_a_job_that_fails_ends_its_step_with_the_stages_exit_code_and_line(
    cluster: ServedCluster, component: Component
) -> None:
    with component.started(PARAMETERS, environment(cluster)) as step:
        read_until(step, f"job {NAME}: Pending")
        attempt = {"number": 1, "exitCode": 4, "message": "the loss is not finite"}
        end(cluster, "Failed", attempts=[attempt])
        read_until(step, "stage mixed failed: the loss is not finite")
        assert step.wait(300) == 4


def test_what_cannot_be_asked_for_is_said_before_anything_is_made(
    cluster: ServedCluster, component: Component
) -> None:
    wrong = yaml.safe_load(JOB)
    wrong["spec"]["stages"][0]["pretrain"]["batchSize"] = 0
    with component.started({**PARAMETERS, "job": json.dumps(wrong)}, environment(cluster)) as step:
        read_until(step, "batchSize")
        assert step.wait(300) == 2
    assert jobs(cluster) == []
