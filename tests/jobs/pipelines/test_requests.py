"""Which FlorenceJob a step asks for."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence_jobs.pipelines.requests import (
    LONGEST_NAME,
    RUN,
    SPEC,
    TASK,
    named,
    requested,
    with_task_settings,
)

DOCUMENT: dict[str, Any] = {
    "apiVersion": "florence.dev/v1alpha1",
    "kind": "FlorenceJob",
    "metadata": {"name": "pets"},
    "spec": {
        "stages": [
            {"name": "mixed", "pretrain": {"data": "d", "batchSize": 4, "epochs": 2}},
            {
                "name": "clean",
                "dependsOn": ["mixed"],
                "pretrain": {"data": "d", "batchSize": 4, "steps": 5},
            },
        ]
    },
}
JOB = yaml.safe_dump(DOCUMENT)


def test_a_recipe_or_a_document_with_changes() -> None:
    job = requested(
        JOB,
        settings={
            "mixed.steps": 7,
            "clean.optimizer.lr": 0.5,
            "model.preset": "coswin-nano",
            "mixed.resources.workers": 2,
            "name": "cats",
        },
        initial_model="s3://b/m",
    )
    mixed, clean = job.spec.stages
    assert (job.metadata.name, job.spec.model.preset) == ("cats", "coswin-nano")
    assert (mixed.pretrain.steps, mixed.pretrain.epochs) == (7, None)
    assert (mixed.resources.workers, clean.pretrain.optimizer.lr) == (2, 0.5)
    assert (mixed.initial_model, clean.initial_model) == ("s3://b/m", None)
    assert requested(recipe="digits").metadata.name == "digits"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "exactly one of job"),
        ({"job": JOB, "recipe": "digits"}, "exactly one of job"),
        ({"recipe": "nothing"}, "'nothing' is none of digits, "),
        ({"job": "[1]"}, "is no FlorenceJob"),
        ({"job": "a: ["}, "job: "),
        ({"job": JOB, "settings": {"other.steps": 1}}, "'other.steps' is none"),
        ({"job": JOB, "settings": {"mixed.stepz": 1}}, "stepz"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        requested(**given)
    assert said in str(caught.value)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=80), st.text(max_size=80))
def test_a_name_is_that_of_the_task_of_the_run_and_of_no_other(run: str, task: str) -> None:
    job = requested(JOB)
    one = named(job, run, task)
    assert one == named(job, run, task)
    assert one.metadata.name != named(job, f"{run}2", task).metadata.name
    assert one.metadata.name != named(job, run, f"{task}2").metadata.name
    assert len(one.metadata.name) <= LONGEST_NAME
    for label in (one.metadata.labels[RUN], one.metadata.labels[TASK]):
        assert len(label) <= 63
        assert label.isascii()
    other = requested(JOB, settings={"mixed.steps": 1})
    assert one.metadata.annotations[SPEC] != named(other, run, task).metadata.annotations[SPEC]


def test_a_long_name_keeps_its_end() -> None:
    job = requested(JOB, settings={"name": "a" * 31 + "-" * 8 + "b"})
    name = named(job, "r", "t").metadata.name
    assert len(name) <= LONGEST_NAME
    assert named(job, "r2", "t").metadata.name != name


def test_what_is_set_on_the_task_lands_on_the_job() -> None:
    job = with_task_settings(
        requested(JOB),
        {
            "resources": {
                "requests": {"cpu": "4", "memory": "8Gi"},
                "limits": {"cpu": "8", "memory": "16Gi", "nvidia.com/gpu": "2"},
            },
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "node_selector": {"zone": "a"},
            "env": [{"name": "A", "value": "b"}],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "shards"}}],
            "volume_mounts": [{"name": "v", "mountPath": "/data"}],
            "affinity": None,
        },
    )
    for stage in job.spec.stages:
        assert stage.resources.wire(defaults=False) == {
            "cpu": "4",
            "memory": "16Gi",
            "gpusPerWorker": 2,
        }
    assert job.spec.node_pool.wire(defaults=False) == {
        "selector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    assert job.spec.pods.wire(defaults=False) == {
        "environment": {"A": "b"},
        "volumes": [{"mountPath": "/data", "readOnly": False, "persistentVolumeClaim": "shards"}],
    }
    assert with_task_settings(requested(JOB), {}) == requested(JOB)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"affinity": {"nodeAffinity": {}}}, "set a node selector instead"),
        ({"env": [{"name": "K", "valueFrom": {"secretKeyRef": {}}}]}, "variable K is of a Secret"),
        ({"resources": {"limits": {"amd.com/gpu": "1"}}}, "'amd.com/gpu'"),
        (
            {
                "volumes": [{"name": "v", "emptyDir": {}}],
                "volume_mounts": [{"name": "v", "mountPath": "/d"}],
            },
            "is no PersistentVolumeClaim",
        ),
    ],
)
def test_what_a_job_cannot_take_is_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        with_task_settings(requested(JOB), task)
