from __future__ import annotations

import copy
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from florence_operator.admission.policy import unfit
from florence_operator.api import FlorenceJob, Stage, load_plan, to_yaml
from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.child_kinds import PYTORCH_JOB, TRAIN_JOB, ChildKind
from florence_operator.api.labels import SPEC_HASH
from florence_operator.backends.pytorchjob import PyTorchJobs
from florence_operator.build.children import attempt_objects
from florence_operator.build.names import child_name
from florence_operator.build.plan import build_plan
from florence_operator.build.pod_template import CA_ANNOTATION, PLAN_ANNOTATION
from florence_operator.build.removal import removal_job
from florence_operator.kube.quantities import quantity
from florence_operator.settings import Allowed, OperatorConfiguration

GOLDEN = Path(__file__).parent / "golden"
SETTINGS = OperatorConfiguration.model_validate(
    {"progress": {"url": "https://florence-operator.florence.svc:8443"}}
)
SMALL: dict[str, Any] = {
    "image": "florence-jobs:0.1.0",
    "artifacts": {"uri": "s3://florence/runs", "endpoint": "http://minio:9000"},
    "stages": [
        {
            "name": "train",
            "resources": {"workers": 2, "cpu": "1500m", "memory": "2Gi"},
            "pretrain": {"data": "s3://florence/digits", "batchSize": 8, "steps": 10},
        }
    ],
}
LARGE: dict[str, Any] = {
    "image": "registry.example/florence-jobs:0.1.0",
    "artifacts": {
        "uri": "s3://florence/runs/",
        "credentialsSecret": "minio",
        "deleteWithJob": True,
    },
    "tracking": {"mlflowUri": "http://mlflow:5000", "credentialsSecret": "mlflow"},
    "nodePool": {
        "selector": {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "pods": {
        "imagePullPolicy": "Always",
        "imagePullSecrets": ["registry"],
        "serviceAccount": "trainer",
        "labels": {"team": "vision", "florence.dev/job": "not-this-one"},
        "annotations": {"example.com/cost": "42"},
        "environment": {"NCCL_DEBUG": "WARN", "PET_MAX_RESTARTS": "9", "POD_NAME": "me"},
        "volumes": [
            {"mountPath": "/data", "persistentVolumeClaim": "fld"},
            {"mountPath": "/scratch", "hostPath": "/mnt/nvme", "readOnly": False},
        ],
        "sharedMemory": "64Gi",
    },
    "stages": [
        {
            "name": "mixed",
            "resources": {"workers": 64, "gpusPerWorker": 8, "cpu": 96, "memory": "1000Gi"},
            "pretrain": {"data": "s3://fld/shards", "batchSize": 512, "steps": 1000},
        },
        {
            "name": "test",
            "dependsOn": ["mixed"],
            "evaluate": {
                "zeroShot": [{"name": "digits", "data": "s3://fld/t", "prompts": "digits"}]
            },
        },
    ],
    "runPolicy": {"queue": "a100", "priorityClass": "high", "gracePeriod": "5m"},
}


def job(spec: dict[str, Any], name: str = "florence-h") -> FlorenceJob:
    metadata = {
        "name": name,
        "namespace": "research",
        "uid": "6e0c5d52-1111-2222-3333-444455556666",
    }
    return FlorenceJob.model_validate(
        {
            "apiVersion": "florence.dev/v1alpha1",
            "kind": "FlorenceJob",
            "metadata": metadata,
            "spec": spec,
        }
    )


def pytorch_job(
    subject: FlorenceJob, stage: Stage, attempt: int, settings: OperatorConfiguration, **hints: Any
) -> dict[str, Any]:
    (made,) = attempt_objects(subject, stage, attempt, settings, PyTorchJobs(), **hints)
    return made


def documents(spec: dict[str, Any]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    subject = job(spec)
    for stage in subject.spec.stages:
        made.append(
            pytorch_job(subject, stage, 2, SETTINGS, ca="CA", avoid_nodes=["node-7", "node-8"])
        )
    if subject.spec.artifacts.delete_with_job:
        made.append(removal_job(subject, SETTINGS))
    return made


def template(child: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = child["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    return found


@pytest.mark.parametrize(("name", "spec"), [("small", SMALL), ("large", LARGE)])
def test_the_documents_are_those_that_were_agreed_on(name: str, spec: dict[str, Any]) -> None:
    """FLORENCE_WRITE_GOLDEN=1 writes them anew; the difference is for a person to read."""
    path = GOLDEN / f"{name}.yaml"
    text = "---\n".join(to_yaml(readable(document)) for document in documents(spec))
    if os.environ.get("FLORENCE_WRITE_GOLDEN") == "1":
        path.write_text(text)
    assert list(yaml.safe_load_all(text)) == list(yaml.safe_load_all(path.read_text()))


def readable(document: dict[str, Any]) -> dict[str, Any]:
    """A plan as a mapping, without the settings that the science's own tests are about.

    The hash of a spec is of those settings too.
    """
    if document["kind"] != "PyTorchJob":
        return document
    copied: dict[str, Any] = copy.deepcopy(document)
    copied["metadata"]["annotations"] = {SPEC_HASH: "of the spec"}
    annotations = template(copied)["metadata"]["annotations"]
    plan = json.loads(annotations[PLAN_ANNOTATION])
    kept = {key: value for key, value in plan.items() if key not in ("config", "model")}
    annotations[PLAN_ANNOTATION] = kept
    return copied


def unknown_fields(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Fields that the API server would drop: structural schemas name every other one."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    if isinstance(value, list):
        inner = schema.get("items", {})
        return [f for i, v in enumerate(value) for f in unknown_fields(v, inner, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return []
    known, any_other = schema.get("properties", {}), schema.get("additionalProperties")
    found: list[str] = []
    for key, inner_value in value.items():
        path = f"{where}.{key}"
        if key in known:
            found += unknown_fields(inner_value, known[key], path)
        elif isinstance(any_other, dict):
            found += unknown_fields(inner_value, any_other, path)
        elif not any_other:
            found.append(path)
    return found


@pytest.mark.parametrize("spec", [SMALL, LARGE])
def test_the_training_operator_knows_every_field(spec: dict[str, Any]) -> None:
    with gzip.open(GOLDEN / "pytorchjob-schema.json.gz") as file:
        schema = json.load(file)
    for document in documents(spec):
        if document["kind"] != "PyTorchJob":
            continue
        jsonschema.validate(document, schema)
        assert unknown_fields(document, schema) == []
        misspelt = json.loads(json.dumps(document).replace("runAsNonRoot", "runAsNonroot"))
        assert len(unknown_fields(misspelt, schema)) == 1


@given(
    name=st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?\Z"),
    stage=st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?\Z"),
    attempt=st.integers(1, 9999),
    kind=st.sampled_from([PYTORCH_JOB, TRAIN_JOB]),
)
def test_names_of_children_are_short_labels_that_start_with_a_letter(
    name: str, stage: str, attempt: int, kind: ChildKind
) -> None:
    made = child_name(name, stage, attempt, kind)
    assert len(made) <= kind.longest_name
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)
    assert made.endswith(f"-a{attempt}")
    assert made != child_name(name, stage, attempt + 1, kind)
    # A name that both could have would hide one of them.
    other = PYTORCH_JOB if kind is TRAIN_JOB else TRAIN_JOB
    assert made != child_name(name, stage, attempt, other)
    pods = {PYTORCH_JOB: f"{made}-worker-9999", TRAIN_JOB: f"{made}-node-0-9999-abcde"}
    assert len(pods[kind]) <= 63


def test_long_names_that_begin_alike_stay_different() -> None:
    assert child_name("j" * 40, "stage-1", 1) != child_name("j" * 40, "stage-2", 1)
    assert re.fullmatch(r"digits-train-[0-9a-f]{6}-a3", child_name("digits", "train", 3))


def test_another_job_with_another_stage_never_has_the_same_name() -> None:
    assert child_name("a-b", "c", 1) != child_name("a", "b-c", 1)


def test_a_child_says_which_spec_it_is_of() -> None:
    def stamp(**changes: Any) -> str:
        subject = job({**SMALL, **changes})
        document = pytorch_job(subject, subject.spec.stages[0], 1, SETTINGS)
        return str(document["metadata"]["annotations"]["florence.dev/spec-hash"])

    (stage,) = SMALL["stages"]
    more = [{**stage, "resources": {"workers": 3}}]
    longer = [{**stage, "pretrain": {**stage["pretrain"], "steps": 11}}]
    stamps = [stamp(), stamp(stages=more), stamp(stages=longer), stamp(image="another:1")]
    assert len(set(stamps)) == 4
    # What changes nothing about the pods is no other spec.
    assert stamp(runPolicy={"suspend": True, "deadline": "1d"}) == stamps[0]
    subject = job(SMALL)
    avoiding = pytorch_job(subject, subject.spec.stages[0], 1, SETTINGS, avoid_nodes=["n"])
    assert avoiding["metadata"]["annotations"]["florence.dev/spec-hash"] == stamps[0]


def test_a_plan_says_where_the_model_comes_from_and_where_the_results_go() -> None:
    subject = job(LARGE)
    stage = subject.spec.stage("test")
    plan = build_plan(subject, stage, 1, SETTINGS)
    assert plan.inputs.checkpoint == "s3://florence/runs/research/florence-h-6e0c5d52/mixed"
    assert plan.output == artifacts_uri(subject, "test")
    assert plan.progress is not None
    assert plan.progress.url == "https://florence-operator.florence.svc:8443/progress"
    assert plan.grace_seconds < 300


def test_without_a_progress_server_no_progress_is_asked_for() -> None:
    subject = job(SMALL)
    assert build_plan(subject, subject.spec.stages[0], 1, OperatorConfiguration()).progress is None


def test_pods_find_their_plan_and_authorities_in_files_made_of_annotations() -> None:
    subject = job(LARGE)
    stage = subject.spec.stage("test")
    made = template(pytorch_job(subject, stage, 1, SETTINGS, ca="-----BEGIN…"))
    annotations = made["metadata"]["annotations"]
    assert load_plan(annotations[PLAN_ANNOTATION]) == build_plan(subject, stage, 1, SETTINGS)
    files = {v["name"]: v for v in made["spec"]["volumes"]}["plan"]["downwardAPI"]["items"]
    shown = {file["path"]: file["fieldRef"]["fieldPath"] for file in files}
    assert shown == {
        "stage.json": f"metadata.annotations['{PLAN_ANNOTATION}']",
        "ca.crt": f"metadata.annotations['{CA_ANNOTATION}']",
    }
    assert annotations[CA_ANNOTATION] == "-----BEGIN…"
    assert made["spec"]["containers"][0]["command"][-1] == "/etc/florence/stage.json"


def test_a_plan_that_fits_into_no_annotation_is_refused_by_its_field() -> None:
    """Annotations of a pod have 256 KiB in all; the API server would refuse the pods only."""
    zero_shot = [
        {
            "name": f"z{i}",
            "data": "s3://bucket/" + "d" * 2000,
            "prompts": "s3://bucket/" + "p" * 2000,
        }
        for i in range(60)
    ]
    spec = copy.deepcopy(LARGE)
    spec["pods"] = {}
    assert unfit(job(spec), SETTINGS) is None
    spec["stages"][1]["evaluate"]["zeroShot"] = zero_shot
    problem = unfit(job(spec), SETTINGS)
    assert problem is not None
    assert problem.startswith("spec.stages[1].evaluate: ")
    assert "KiB" in problem

    spec["stages"][1]["evaluate"]["zeroShot"] = zero_shot[:1]
    spec["pods"] = {"annotations": {f"example.com/{i}": "x" * 4000 for i in range(60)}}
    allowed = SETTINGS.model_copy(update={"allowed": Allowed(annotations=("example.com/",))})
    problem = unfit(job(spec), allowed)
    assert problem is not None
    assert problem.startswith("spec.pods.annotations: ")


def test_no_variable_is_set_twice_and_ours_are_not_the_users() -> None:
    variables = template(documents(LARGE)[0])["spec"]["containers"][0]["env"]
    names = [variable["name"] for variable in variables]
    assert len(names) == len(set(names))
    values = {variable["name"]: variable.get("value") for variable in variables}
    assert values["PET_MAX_RESTARTS"] == "0"
    assert values["POD_NAME"] is None
    assert values["NCCL_DEBUG"] == "WARN"


@pytest.mark.parametrize(
    ("pods", "size"), [({}, "50Gi"), ({"temporaryStorage": "2Ti"}, "2Ti")], ids=["default", "asked"]
)
def test_no_pod_fills_its_node(pods: dict[str, Any], size: str) -> None:
    made = template(documents({**SMALL, "pods": pods})[0])
    volumes = {volume["name"]: volume for volume in made["spec"]["volumes"]}
    assert volumes["tmp"] == {"name": "tmp", "emptyDir": {"sizeLimit": size}}


def test_a_folder_of_a_node_has_to_be_there_and_to_be_one() -> None:
    """Whatever is missing a kubelet would make, as root, and a socket it would mount."""
    volumes = template(documents(LARGE)[0])["spec"]["volumes"]
    paths = [volume["hostPath"] for volume in volumes if "hostPath" in volume]
    assert paths == [{"path": "/mnt/nvme", "type": "Directory"}]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"image": None}, "spec.image"),
        ({"artifacts": {}}, "spec.artifacts.uri"),
        ({"pods": {"sharedMemory": "much"}}, "spec.pods.sharedMemory"),
    ],
)
def test_what_a_cluster_needs_is_named(change: dict[str, Any], field: str) -> None:
    assert unfit(job(SMALL), SETTINGS) is None
    problem = unfit(job({**SMALL, **change}), SETTINGS)
    assert problem is not None
    assert problem.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), (3, 3), ("500m", 0.5), ("1.5Gi", 1.5 * 2**30), ("2k", 2000)]
)
def test_quantities_are_read_as_kubernetes_does(text: str | int, value: float) -> None:
    assert quantity(text) == value
