"""TrainJobs: what is made of an attempt, and what of it is believed."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from florence_operator.api import to_yaml
from florence_operator.api.attempt_pods import Pod, pod_from
from florence_operator.api.child_kinds import TRAIN_JOB
from florence_operator.api.labels import SPEC_HASH
from florence_operator.backends.protocol import Child, ChildState
from florence_operator.backends.pytorchjob import PyTorchJobs
from florence_operator.backends.registry import child_from, made
from florence_operator.backends.trainjob import TrainJobs
from florence_operator.build.children import attempt_objects, spec_hash
from florence_operator.build.names import child_name
from tests.operator.build.test_children import (
    LARGE,
    SETTINGS,
    SMALL,
    job,
    unknown_fields,
)

HERE = Path(__file__).parent
LABELS = {"florence.dev/job": "j", "florence.dev/stage": "s", "florence.dev/attempt": "2"}


def objects(spec: dict[str, Any], backend: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
    subject = job(spec)
    runtime, train_job = attempt_objects(
        subject, subject.spec.stages[0], 2, SETTINGS, backend or TrainJobs(), ca="CA"
    )
    return runtime, train_job


def pod_template(runtime: dict[str, Any]) -> dict[str, Any]:
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    found: dict[str, Any] = node["template"]["spec"]["template"]
    return found


def readable(documents: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    """Without what is of the plan and of other tests: the pods are those of every backend."""
    copied = json.loads(json.dumps(documents))
    for document in copied:
        if SPEC_HASH in document["metadata"].get("annotations", {}):
            document["metadata"]["annotations"] = {SPEC_HASH: "of the spec"}
    pod_template(copied[0])["metadata"]["annotations"]["florence.dev/plan"] = "the plan"
    return list(copied)


@pytest.mark.parametrize(("name", "spec"), [("small", SMALL), ("large", LARGE)])
def test_the_documents_are_those_that_were_agreed_on(name: str, spec: dict[str, Any]) -> None:
    """FLORENCE_WRITE_GOLDEN=1 writes them anew; the difference is for a person to read."""
    path = HERE / f"golden/trainjob-{name}.yaml"
    text = "---\n".join(to_yaml(document) for document in readable(objects(spec)))
    if os.environ.get("FLORENCE_WRITE_GOLDEN") == "1":
        path.write_text(text)
    assert list(yaml.safe_load_all(text)) == list(yaml.safe_load_all(path.read_text()))


GANGS: list[dict[str, Any]] = [
    {"gang": "volcano", "topology": {"required": "2"}},
    {"gang": "volcano"},
    {"gang": "scheduler-plugins"},
    {"gang": "coscheduling"},
    {"queue": "q", "topology": {"preferred": "cloud.example.com/rack"}},
]


@pytest.mark.parametrize("policy", [{}, *GANGS], ids=str)
@pytest.mark.parametrize("spec", [SMALL, LARGE], ids=["small", "large"])
def test_trainer_knows_every_field(spec: dict[str, Any], policy: dict[str, Any]) -> None:
    """Against the schemas of Trainer 2.3's own CRDs."""
    for document in objects({**spec, "runPolicy": policy}):
        with gzip.open(HERE / f"golden/{document['kind'].lower()}-schema.json.gz") as file:
            schema = json.load(file)
        jsonschema.validate(document, schema)
        schema["properties"].pop("metadata")  # the API server's own
        document = {key: value for key, value in document.items() if key != "metadata"}
        assert unknown_fields(document, schema) == []
        misspelt = json.loads(json.dumps(document).replace('"numNodes"', '"numnodes"'))
        assert len(unknown_fields(misspelt, schema)) == 1


def test_nothing_is_tried_again_below_an_attempt() -> None:
    runtime, train_job = objects(SMALL)
    spec = runtime["spec"]["template"]["spec"]
    assert spec["failurePolicy"] == {"maxRestarts": 0}
    (node,) = spec["replicatedJobs"]
    assert node["template"]["spec"]["backoffLimit"] == 0
    assert pod_template(runtime)["spec"]["restartPolicy"] == "Never"
    assert not {"suspend", "runtimePatches", "activeDeadlineSeconds"} & set(train_job["spec"])


def test_trainer_tells_the_rendezvous_to_the_right_container_and_nobody_else_does() -> None:
    runtime, train_job = objects(LARGE)
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["template"]["metadata"]["labels"] == {
        "trainer.kubeflow.org/trainjob-ancestor-step": "trainer"
    }
    (container,) = pod_template(runtime)["spec"]["containers"]
    assert (node["name"], container["name"]) == ("node", "node")
    names = {variable["name"] for variable in container["env"]}
    assert {name for name in names if name.startswith("PET_")} == {"PET_MAX_RESTARTS"}
    # As many processes as GPUs; Trainer's own default would be one for each CPU.
    assert train_job["spec"]["trainer"] == {"numNodes": 64, "numProcPerNode": 8}
    _, small = objects(SMALL)
    assert small["spec"]["trainer"] == {"numNodes": 2, "numProcPerNode": 1}


def test_the_pods_are_those_of_a_pytorchjob_but_for_the_rendezvous() -> None:
    subject = job(LARGE)
    stage = subject.spec.stages[0]
    (other,) = attempt_objects(subject, stage, 2, SETTINGS, PyTorchJobs(), ca="CA")
    theirs = other["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    ours = pod_template(objects(LARGE)[0])
    assert ours["metadata"] == theirs["metadata"]
    for key in ours["spec"].keys() | theirs["spec"].keys():
        if key not in ("containers", "restartPolicy"):
            assert ours["spec"][key] == theirs["spec"][key], key
    ((mine,), (its,)) = ours["spec"]["containers"], theirs["spec"]["containers"]
    assert {k: v for k, v in mine.items() if k not in ("name", "env")} == {
        k: v for k, v in its.items() if k not in ("name", "env", "ports")
    }


def test_kueue_admits_the_trainjob_and_nothing_below_it() -> None:
    runtime, train_job = objects(LARGE)
    labels = train_job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "a100"
    assert labels["kueue.x-k8s.io/priority-class"] == "high"
    assert "kueue" not in json.dumps(runtime)
    grace = pod_template(runtime)["spec"]["terminationGracePeriodSeconds"]
    assert grace == 300  # Kueue drops it from patches


def test_a_child_and_its_runtime_have_one_name_that_no_pytorchjob_has() -> None:
    runtime, train_job = objects(SMALL)
    name = child_name("florence-h", "train", 2, TRAIN_JOB)
    assert runtime["metadata"]["name"] == train_job["metadata"]["name"] == name
    assert train_job["spec"]["runtimeRef"]["name"] == name
    assert name != child_name("florence-h", "train", 2)
    (companion,) = TrainJobs().companions(name)
    assert (companion.kind, companion.name) == ("TrainingRuntime", name)


def test_a_child_of_the_other_kind_is_of_another_spec() -> None:
    subject = job(SMALL)
    stage = subject.spec.stages[0]
    hashes = {spec_hash(subject, stage, 2, SETTINGS, b) for b in (TrainJobs(), PyTorchJobs())}
    assert len(hashes) == 2


def document(*conditions: tuple[str, str], suspend: bool = False) -> dict[str, Any]:
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": {
            "name": "c",
            "uid": "u",
            "labels": LABELS,
            "creationTimestamp": "2026-11-24T10:00:00Z",
            "resourceVersion": "7",
        },
        "spec": {"suspend": suspend, "trainer": {"env": [{"name": "A"}] * 50}},
        "status": {
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "message": "why",
                    "lastTransitionTime": "2026-11-24T10:05:00Z",
                }
                for kind, status in conditions
            ]
        },
    }


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (document(), ChildState.ACTIVE),
        (document(suspend=True), ChildState.SUSPENDED),
        # As measured: the condition stays, False, when it was resumed.
        (document(("Suspended", "False")), ChildState.ACTIVE),
        (document(("Suspended", "True"), suspend=True), ChildState.SUSPENDED),
        (document(("Suspended", "False"), ("Complete", "True")), ChildState.SUCCEEDED),
        (document(("Failed", "True")), ChildState.FAILED),
        (document(("Failed", "False")), ChildState.ACTIVE),
    ],
)
def test_a_trainjob_is_read_as_its_conditions_say(seen: dict[str, Any], state: ChildState) -> None:
    child = child_from(seen)
    assert child is not None
    assert (child.kind, child.state) == ("TrainJob", state)
    assert (child.message == "why") == (state is ChildState.FAILED)
    slim = TrainJobs().slim(seen)
    assert child_from(slim) == child
    assert len(str(slim)) < len(str(seen))


CHILD = child_from(document())
JOB = {"kind": "Job", "name": "c-node-0", "uid": "the-jobs", "controller": True}


def pod(owner: dict[str, Any] | None = JOB, **labels: str) -> Pod:
    metadata = {
        "name": "c-node-0-1-abcde",
        "uid": "p",
        "creationTimestamp": "2026-11-24T10:00:03Z",
        "labels": {
            **LABELS,
            "jobset.sigs.k8s.io/jobset-name": "c",
            "batch.kubernetes.io/job-completion-index": "1",
            **labels,
        },
        "ownerReferences": [owner] if owner else [],
    }
    found = pod_from({"metadata": metadata, "status": {"phase": "Running"}})
    assert found is not None
    return found


def test_the_pods_of_a_trainjob_are_known_by_the_job_that_controls_them() -> None:
    assert CHILD is not None
    mine = pod()
    assert (mine.index, mine.container) == (1, "node")
    assert made(CHILD, mine)
    assert not made(CHILD, pod(owner=None))  # an orphan, or made by hand
    assert not made(CHILD, pod(owner={**JOB, "name": "another-node-0"}))
    assert not made(CHILD, pod(owner={**JOB, "kind": "ReplicaSet"}))
    assert not made(CHILD, pod(owner={**JOB, "controller": False}))
    assert not made(CHILD, pod(**{"jobset.sigs.k8s.io/jobset-name": "another"}))
    # Somebody deleted the TrainJob, and another of its name was made: the pod is of the first.
    newer = document()
    newer["metadata"]["creationTimestamp"] = "2026-11-24T11:00:00Z"
    later = child_from(newer)
    assert later is not None
    assert not made(later, mine)


def test_the_pods_of_one_kind_are_never_those_of_the_other() -> None:
    labels = {**LABELS, "training.kubeflow.org/replica-index": "0"}
    metadata = {
        "name": "c-worker-0",
        "uid": "p",
        "labels": labels,
        "ownerReferences": [{"kind": "PyTorchJob", "name": "c", "uid": "u", "controller": True}],
    }
    theirs = pod_from({"metadata": metadata})
    assert theirs is not None
    assert CHILD is not None
    assert not made(CHILD, theirs)
    fields = {"name": "c", "uid": "u", "stage": "s", "attempt": 2}
    assert made(Child(kind="PyTorchJob", **fields), theirs)
    assert not made(Child(kind="PyTorchJob", **fields), pod())
    assert not made(Child(kind="OfTheNextVersion", **fields), theirs)


def test_what_an_orphan_leads_to_is_the_jobset_that_would_stay_for_ever() -> None:
    (left,) = TrainJobs().remnants(pod())
    assert (left.kind, left.name, left.child) == ("JobSet", "c", "c")
