"""Findings of pydantic as lines: every kind of mistake in a job says where and what is right."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from florence_operator.api import FlorenceJob
from florence_operator.api.problems import field_path, problems


def job(stage: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A job with one pretraining stage of these settings beside the required ones."""
    settings = {"data": "x", "batchSize": 4, "steps": 5} | stage
    return {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "a"},
        "spec": {"stages": [{"name": "one", "pretrain": settings}], **spec},
    }


def lines_of(document: dict[str, Any], source: str = "") -> list[str]:
    with pytest.raises(ValidationError) as caught:
        FlorenceJob.model_validate(document)
    return problems(caught.value, model=FlorenceJob, source=source)


@pytest.mark.parametrize(
    ("stage", "line"),
    [
        ({"batchSize": 0}, "batchSize: must be at least 1, not 0"),
        ({"log_every_steps": "x"}, "logEverySteps: must be a whole number, not 'x'"),
        (
            {"batch_size": 4},
            "batch_size: is not a known field; did you mean 'batchSize'?",  # given twice
        ),
        ({"batchSize": 1.5}, "batchSize: must be a whole number, not 1.5"),
        ({"resolution": None}, "resolution: must be a whole number"),
        ({"data": 3}, "data: must be a string, not 3"),
        ({"precision": "fp64"}, "precision: must be 'fp32', 'bf16' or 'fp16', not 'fp64'"),
        ({"excludeAugmented": "perhaps"}, "excludeAugmented: must be true or false, not 'perhaps'"),
        ({"loss": 3}, "loss: must be a mapping, not 3"),
        ({"loss": {"rowChunk": -1}}, "loss.rowChunk: must be at least 0, not -1"),
        ({"loss": {"maxScale": 1}}, "loss.maxScale: must be greater than 1, not 1"),
        ({"optimizer": {"beta1": 1}}, "optimizer.beta1: must be less than 1, not 1"),
        ({"augmentation": {"scaleMax": 2}}, "augmentation.scaleMax: must be at most 1, not 2"),
        ({"stps": 1}, "stps: is not a known field; did you mean 'steps'?"),
        (
            {"loss": {"rowchunk": 1}},
            "loss.rowchunk: is not a known field; did you mean 'rowChunk'?",
        ),
        (
            {"loss": {"zzz": 1}},
            "loss.zzz: is not a known field; use one of maxScale, reduction, rowChunk, temperature",
        ),
        (
            {"augmentation": {"mean": [1, 2, "x"]}},
            "augmentation.mean[2]: must be a number, not 'x'",
        ),
    ],
)
def test_mistakes_in_a_stage(stage: dict[str, Any], line: str) -> None:
    assert lines_of(job(stage)) == [f"spec.stages[0].pretrain.{line}"]


def test_rules_across_fields_keep_their_own_words() -> None:
    (line,) = lines_of(job({"augmentation": {"scaleMin": 0.9, "scaleMax": 0.5}}))
    assert line == "spec.stages[0].pretrain.augmentation: a minimum is above its maximum"


def test_every_mistake_is_told_and_names_its_file() -> None:
    document = job({"batchSize": 0}, image=3)
    document["kind"] = "Job"
    assert lines_of(document, source="job.yaml") == [
        "job.yaml: kind: must be 'FlorenceJob', not 'Job'",
        "job.yaml: spec.image: must be a string, not 3",
        "job.yaml: spec.stages[0].pretrain.batchSize: must be at least 1, not 0",
    ]


def test_missing_things() -> None:
    assert lines_of({}) == [
        f"{field}: is required" for field in ("apiVersion", "kind", "metadata", "spec")
    ]
    document = job({})
    document["spec"]["stages"] = []
    assert lines_of(document) == ["spec.stages: must have at least 1 of them"]


def test_names_are_told_their_pattern() -> None:
    document = job({})
    document["metadata"]["name"] = "Not Valid"
    (line,) = lines_of(document)
    assert line.startswith("metadata.name: must match ^[a-z0-9]")
    assert line.endswith("not 'Not Valid'")


def test_paths() -> None:
    assert field_path(("spec", "stages", 0, "batch_size")) == "spec.stages[0].batchSize"
    assert field_path(("labels", "app.kubernetes.io/name")) == "labels.app.kubernetes.io/name"
    assert field_path(()) == ""
