from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence_operator.admission.validation import Validation, validate
from florence_operator.settings import OperatorConfiguration

ROOT = Path(__file__).parents[3]
SAMPLES = {path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob("jobs/samples/*.yaml")}
SETTINGS = OperatorConfiguration.model_validate(
    {
        "allowed": {
            "serviceAccounts": ["trainer"],
            "hostPaths": ["/mnt/data", "/srv/x/"],
            "writableHostPaths": ["/mnt/data/scratch", "/nvme/"],
            "labels": ["app.kubernetes.io/part-of"],
            "annotations": ["example.com/", "prometheus.io/scrape", "kueue.x-k8s.io/"],
        },
        "defaults": {"mlflowUri": "http://mlflow:5000"},
    }
)


def small() -> dict[str, Any]:
    """A job of two training stages and an evaluation that a cluster takes."""
    pretrain = {"data": "s3://data/shards", "batchSize": 64, "steps": 10}
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "small", "namespace": "team", "uid": "0a1b", "resourceVersion": "7"},
        "spec": {
            "image": "florence-jobs:0.1.0",
            "artifacts": {"uri": "s3://florence/runs"},
            "stages": [
                {"name": "one", "pretrain": dict(pretrain)},
                {"name": "two", "dependsOn": ["one"], "pretrain": dict(pretrain)},
                {
                    "name": "test",
                    "dependsOn": ["two"],
                    "evaluate": {
                        "zeroShot": [
                            {"name": "d", "data": "builtin:digits/test", "prompts": "digits"}
                        ]
                    },
                },
            ],
        },
    }


def put(job: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The job with another value at a path such as ``spec.stages.0.pretrain.steps``."""
    changed = copy.deepcopy(job)
    holder: Any = changed
    *above, last = [int(part) if part.isdecimal() else part for part in path.split(".")]
    for part in above:
        holder = holder[part] if isinstance(part, int) else holder.setdefault(part, {})
    holder[last] = value
    return changed


def create(job: Any, settings: OperatorConfiguration = SETTINGS) -> Validation:
    # The clock stands still: how fast this machine is decides nothing.
    return validate({"operation": "CREATE", "object": job}, settings, clock=lambda: 0.0)


def update(old: Any, new: Any) -> Validation:
    request = {"operation": "UPDATE", "object": new, "oldObject": old}
    return validate(request, SETTINGS, clock=lambda: 0.0)


def started(state: str = "Running") -> dict[str, Any]:
    """The small job whose first stage has an attempt."""
    status = {"stages": [{"name": "one", "state": state, "attempts": [{"number": 1}]}]}
    return {**small(), "status": status}


@pytest.mark.parametrize("name", ["digits-cluster", "florence-h"])
def test_cluster_samples_are_taken(name: str) -> None:
    answer = create(SAMPLES[name])
    assert answer == Validation(True), answer


def test_a_local_job_is_told_what_a_cluster_needs() -> None:
    message = create(SAMPLES["digits"]).message
    assert "spec.image: " in message
    assert "spec.artifacts.uri: " in message


def test_all_wrong_fields_are_listed() -> None:
    job = put(small(), "spec.stages.1.pretrain.optimizer.lr", "fast")
    job = put(job, "spec.stages.0.pretrain.stepz", 5)
    job = put(job, "spec.runPolicy.deadline", "soon")
    answer = create(job)
    assert answer.code == 422
    assert "spec.stages[1].pretrain.optimizer.lr: must be a number, not 'fast'" in answer.message
    assert (
        "spec.stages[0].pretrain.stepz: is not a known field; did you mean 'steps'?"
        in answer.message
    )
    assert "spec.runPolicy.deadline: " in answer.message


def test_a_cycle_is_told_with_its_stages() -> None:
    message = create(put(small(), "spec.stages.0.dependsOn", ["two"])).message
    assert message.startswith("spec.stages: ")
    assert "one, two, test depend on each other in a cycle" in message


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec.artifacts.uri", "runs", "spec.artifacts.uri"),
        ("spec.artifacts.uri", "/data/runs", "spec.artifacts.uri"),
        ("spec.artifacts.uri", "gs://b/p", "spec.artifacts.uri"),
        ("spec.artifacts.uri", "s3:///p", "spec.artifacts.uri"),
        ("spec.artifacts.uri", "s3://key:secret@b/p", "spec.artifacts.uri"),
        ("spec.artifacts.endpoint", "minio", "spec.artifacts.endpoint"),
        ("spec.artifacts.endpoint", "http://a:b@minio", "spec.artifacts.endpoint"),
        ("spec.artifacts.credentialsSecret", "Not_A_Name", "spec.artifacts.credentialsSecret"),
        ("spec.tracking.mlflowUri", "mlruns", "spec.tracking.mlflowUri"),
        ("spec.tracking.mlflowUri", "http://u:p@mlflow", "spec.tracking.mlflowUri"),
        ("spec.pods.serviceAccount", "default", "spec.pods.serviceAccount"),
        ("spec.pods.labels", {"florence.dev/job": "x"}, "spec.pods.labels"),
        ("spec.pods.labels", {"training.kubeflow.org/job-name": "x"}, "spec.pods.labels"),
        ("spec.pods.labels", {"jobset.sigs.k8s.io/jobset-name": "x"}, "spec.pods.labels"),
        ("spec.pods.labels", {"trainer.kubeflow.org/x": "x"}, "spec.pods.labels"),
        ("spec.runPolicy.gang", "kueue", "spec.runPolicy.gang"),
        ("spec.runPolicy.gang", "together", "spec.runPolicy.gang"),
        ("spec.runPolicy.backend", "MPIJob", "spec.runPolicy.backend"),
        ("spec.runPolicy.topology", {"required": "a/rack"}, "spec.runPolicy.topology"),
        ("spec.runPolicy", {"queue": "q", "topology": {}}, "spec.runPolicy.topology"),
        (
            "spec.runPolicy",
            {"gang": "volcano", "topology": {"required": "a/rack"}},
            "spec.runPolicy.topology",
        ),
        (
            "spec.runPolicy",
            {"gang": "volcano", "backend": "PyTorchJob", "topology": {"required": "1"}},
            "spec.runPolicy.topology",
        ),
        (
            "spec.runPolicy",
            {"gang": "coscheduling", "topology": {"required": "1"}},
            "spec.runPolicy.topology",
        ),
        ("spec.managedBy", "somebody", "spec.managedBy"),
        ("spec.pods.labels", {"a b": "x"}, "spec.pods.labels"),
        ("spec.pods.labels", {"app.kubernetes.io/name": "florence-operator"}, "spec.pods.labels"),
        ("spec.pods.labels", {"app": "minio"}, "spec.pods.labels"),
        ("spec.pods.labels", {"scheduling.x-k8s.io/pod-group": "x"}, "spec.pods.labels"),
        ("spec.pods.labels", {"kubernetes.io/x": "x"}, "spec.pods.labels"),
        ("spec.pods.annotations", {"iam.amazonaws.com/role": "admin"}, "spec.pods.annotations"),
        ("spec.pods.annotations", {"k8s.v1.cni.cncf.io/networks": "n"}, "spec.pods.annotations"),
        ("spec.pods.annotations", {"example.org/a": "n"}, "spec.pods.annotations"),
        ("spec.pods.temporaryStorage", "lots", "spec.pods.temporaryStorage"),
        ("spec.stages.0.resources.workers", 2 * 10**9, "spec.stages[0].resources.workers"),
        ("spec.stages.0.resources.workers", 10_001, "spec.stages[0].resources.workers"),
        ("spec.stages.0.resources.gpusPerWorker", 10**9, "spec.stages[0].resources.gpusPerWorker"),
        ("spec.runPolicy.retries.infrastructure", 10**9, "spec.runPolicy.retries.infrastructure"),
        ("spec.runPolicy.retries.application", 10**9, "spec.runPolicy.retries.application"),
        ("spec.pods.labels", {"a": "x y"}, "spec.pods.labels"),
        ("spec.pods.annotations", {"kueue.x-k8s.io/queue-name": "q"}, "spec.pods.annotations"),
        ("spec.pods.environment", {"PET_NNODES": "9"}, "spec.pods.environment.PET_NNODES"),
        ("spec.pods.environment", {"AWS_SECRET_ACCESS_KEY": "s"}, "spec.pods.environment"),
        ("spec.pods.environment", {"A=B": "s"}, "spec.pods.environment"),
        ("spec.pods.imagePullSecrets", ["a/b"], "spec.pods.imagePullSecrets[0]"),
        ("spec.pods.sharedMemory", "lots", "spec.pods.sharedMemory"),
        ("spec.nodePool.selector", {"a": "-"}, "spec.nodePool.selector"),
        (
            "spec.nodePool.tolerations",
            [{"key": "a", "tolerationSeconds": 5}],
            "spec.nodePool.tolerations[0].tolerationSeconds",
        ),
        (
            "spec.nodePool.tolerations",
            [{"operator": "Exists", "value": "a"}],
            "spec.nodePool.tolerations[0].value",
        ),
        ("spec.runPolicy.queue", "a b", "spec.runPolicy.queue"),
        ("spec.stages.1.resources.memory", "16 GB", "spec.stages[1].resources.memory"),
        ("spec.stages.1.resources.cpu", 0, "spec.stages[1].resources.cpu"),
        ("spec.stages.0.resources.workers", 3, "spec.stages[0].pretrain.batchSize"),
        ("spec.stages.0.pretrain.data", "shards", "spec.stages[0].pretrain.data"),
        ("spec.stages.0.pretrain.data", "/data/shards", "spec.stages[0].pretrain.data"),
        (
            "spec.stages.0.pretrain.text.templates",
            "/t.txt",
            "spec.stages[0].pretrain.text.templates",
        ),
        (
            "spec.stages.2.evaluate.zeroShot.0.prompts",
            "p.yaml",
            "spec.stages[2].evaluate.zeroShot[0].prompts",
        ),
    ],
)
def test_what_a_cluster_cannot_run_is_refused_by_field(path: str, value: Any, field: str) -> None:
    answer = create(put(small(), path, value))
    assert answer.code == 422
    assert answer.message.startswith(field), answer.message
    assert "secret@" not in answer.message


def test_chunks_that_a_gpu_has_not_samples_for_are_refused_by_field() -> None:
    """64 samples on 8 processes are 8 each, which do not make 100 chunks."""
    job = put(small(), "spec.stages.1.resources", {"workers": 8})
    answer = create(put(job, "spec.stages.1.pretrain.gradientCacheChunks", 100))
    assert answer.problems == (
        "spec.stages[1].pretrain.gradientCacheChunks: 100 is more than the 8 samples of each of "
        "8 processes: use at most 8",
    )
    assert create(put(job, "spec.stages.1.pretrain.gradientCacheChunks", 8)).allowed


def test_a_batch_that_does_not_divide_is_refused_with_what_would() -> None:
    answer = create(put(small(), "spec.stages.0.resources.workers", 6))
    assert answer.problems == (
        "spec.stages[0].pretrain.batchSize: 64 does not divide over 6 processes: use a multiple "
        "of 6 such as 66",
    )


def test_a_model_of_another_task_is_refused_by_field() -> None:
    classification = {"classification": [{"name": "c", "data": "s3://data/test"}]}
    answer = create(put(small(), "spec.stages.2.evaluate", classification))
    assert answer.problems == (
        "spec.stages[2].dependsOn: 'test' (evaluate) cannot start from the contrastive model of "
        "'two': it takes classification models",
    )


def test_templates_in_s3_are_taken() -> None:
    job = put(small(), "spec.stages.0.pretrain.text.templates", "s3://data/templates.txt")
    assert create(job) == Validation(True)


@pytest.mark.parametrize(
    "length", [{"steps": 10, "epochs": 2.0}, {}], ids=["steps and epochs", "neither"]
)
def test_one_length_is_needed(length: dict[str, Any]) -> None:
    pretrain = {"data": "s3://data/shards", "batchSize": 64, **length}
    answer = create(put(small(), "spec.stages.0.pretrain", pretrain))
    assert answer.problems == ("spec.stages[0].pretrain: give exactly one of steps and epochs",)


def test_epochs_are_taken() -> None:
    pretrain = {"data": "s3://data/shards", "batchSize": 64, "epochs": 2.5}
    assert create(put(small(), "spec.stages.0.pretrain", pretrain)).allowed


def with_volume(**volume: Any) -> dict[str, Any]:
    return put(small(), "spec.pods.volumes", [{"mountPath": "/data", **volume}])


def test_folders_in_volumes_are_reached() -> None:
    job = with_volume(persistentVolumeClaim="data")
    assert create(put(job, "spec.stages.0.pretrain.data", "/data/shards")).allowed
    assert not create(put(job, "spec.stages.0.pretrain.data", "/database/shards")).allowed
    assert not create(put(job, "spec.stages.0.pretrain.data", "/data/../etc")).allowed
    written = put(job, "spec.artifacts.uri", "/data/runs")
    assert "readOnly" in create(written).message
    assert create(put(written, "spec.pods.volumes.0.readOnly", False)).allowed


@pytest.mark.parametrize(
    "path", ["/mnt/data", "/mnt/data/", "/mnt//data/a", "/srv/x", "/srv/x/y", "/mnt/./data"]
)
def test_allowed_host_paths(path: str) -> None:
    assert create(with_volume(hostPath=path)).allowed


@pytest.mark.parametrize(
    "path", ["/", "/mnt", "/mnt/database", "/mnt/data/../../etc", "//mnt/data/..", "/srv"]
)
def test_other_host_paths_are_refused(path: str) -> None:
    answer = create(with_volume(hostPath=path))
    assert "spec.pods.volumes[0].hostPath: " in answer.message


@pytest.mark.parametrize(
    "mount", ["/", "/etc", "/tmp", "/etc/florence/x", "/var/run/secrets", "/dev/shm", "/a/../etc"]
)
def test_mounts_that_would_hide_the_pods_own_folders_are_refused(mount: str) -> None:
    job = put(with_volume(persistentVolumeClaim="data"), "spec.pods.volumes.0.mountPath", mount)
    assert "spec.pods.volumes[0].mountPath: " in create(job).message


def test_an_allowed_service_account() -> None:
    assert create(put(small(), "spec.pods.serviceAccount", "trainer")).allowed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.stages", [{"name": f"s{i}"} for i in range(129)]),
        ("spec.pods.volumes", [{"mountPath": f"/v{i}"} for i in range(60_000)]),
        ("spec.pods.environment", {f"E{i}": "" for i in range(129)}),
    ],
)
def test_more_than_the_schema_takes_is_not_even_read(path: str, value: Any) -> None:
    """The webhook can be reached past the API server, whose schema has these bounds."""
    answer = create(put(small(), path, value))
    assert answer.problems == (f"{path}: has more than 128 entries",)


def test_untracked_jobs_are_warned() -> None:
    answer = create(small(), OperatorConfiguration())
    assert [line.partition(":")[0] for line in answer.warnings] == ["spec.tracking.mlflowUri"]


def test_nothing_but_a_new_spec_is_ever_refused() -> None:
    broken = put(small(), "spec.stages", [])
    for request in (
        {"operation": "DELETE", "oldObject": broken},
        {"operation": "CONNECT"},
        {"operation": "UPDATE", "subResource": "status", "object": broken, "oldObject": small()},
        {"operation": "UPDATE", "object": broken, "oldObject": broken},
        {},
    ):
        assert validate(request, SETTINGS).allowed


def test_what_was_taken_before_can_still_be_suspended() -> None:
    """The platform engineer took a right away; the job that has it is not stuck."""
    old = put(small(), "spec.pods.serviceAccount", "former")
    assert not create(old).allowed
    assert update(old, put(old, "spec.runPolicy.suspend", True)).allowed
    assert not update(small(), old).allowed


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("spec.stages.0.pretrain.steps", 11, "spec.stages[0].pretrain"),
        ("spec.stages.0.resources.memory", "8Gi", "spec.stages[0].resources"),
        ("spec.model.preset", "coswin-nano", "spec.model"),
        ("spec.artifacts.uri", "s3://other/runs", "spec.artifacts.uri"),
    ],
)
def test_what_has_started_stays(path: str, value: Any, field: str) -> None:
    answer = update(started(), put(started(), path, value))
    assert answer.message.startswith(f"{field}: ")
    assert update(small(), put(small(), path, value)).allowed


def test_a_started_stage_cannot_be_removed() -> None:
    changed = started()
    changed["spec"]["stages"][0]["name"] = "other"
    changed["spec"]["stages"][1]["dependsOn"] = ["other"]
    assert update(started(), changed).message.startswith("spec.stages: 'one' has started")


def test_later_stages_and_the_run_policy_may_change() -> None:
    for path, value in (
        ("spec.stages.1.pretrain.steps", 11),
        ("spec.runPolicy.suspend", True),
        ("spec.runPolicy.retry", 1),
        ("spec.runPolicy.retries.application", 9),
    ):
        assert update(started(), put(started(), path, value)).allowed


@pytest.mark.parametrize("state", ["Suspended", "Failed", "Pending"])
def test_a_stage_without_pods_may_get_other_resources(state: str) -> None:
    old = started(state)
    assert update(old, put(old, "spec.stages.0.resources.memory", "8Gi")).allowed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.stages.0.pretrain.steps", 11),
        ("spec.stages.0.initialModel", "s3://bucket/model"),
        ("spec.stages.0.pretrain", None),
    ],
)
def test_a_failed_stage_may_be_corrected(path: str, value: Any) -> None:
    def corrected(document: dict[str, Any]) -> dict[str, Any]:
        changed = put(document, path, value)
        if value is None:  # another kind
            del changed["spec"]["stages"][0]["pretrain"]
            changed["spec"]["stages"][0]["evaluate"] = {
                "zeroShot": [{"name": "z", "data": "s3://bucket/test", "prompts": "digits"}]
            }
            changed["spec"]["stages"][0]["initialModel"] = "s3://bucket/model"
            changed["spec"]["stages"][1]["dependsOn"] = []
        return changed

    assert update(started("Failed"), corrected(started("Failed"))).allowed
    refused = update(started("Suspended"), corrected(started("Suspended"))).message
    assert "unless it has failed" in refused


def test_the_dependencies_of_a_failed_stage_stay() -> None:
    old = started("Failed")
    changed = put(old, "spec.stages.0.dependsOn", ["two"])
    del changed["spec"]["stages"][1]["dependsOn"]
    assert "dependsOn: cannot be changed" in update(old, changed).message


def test_the_same_spec_with_its_defaults_written_out_is_no_change() -> None:
    written = put(started(), "spec.stages.0.pretrain.resolution", 224)
    assert update(started(), written).allowed


def test_retry_may_only_grow() -> None:
    old = put(small(), "spec.runPolicy.retry", 2)
    message = update(old, put(old, "spec.runPolicy.retry", 1)).message
    assert message.startswith("spec.runPolicy.retry: ")


def test_every_problem_is_kept_and_the_message_stays_short() -> None:
    job = put(small(), "spec.pods.labels", {f"florence.dev/{i}": "x" for i in range(50)})
    answer = create(job)
    assert len(answer.problems) == 50
    assert answer.message.endswith("; … and 30 more")
    assert len(answer.message) < 4_000
