"""What a fine-tuning stage may be told, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from florence.kinds import KINDS, MODEL_TASKS
from florence.tasks.finetune.settings import Finetune, Mode


def made(mode: str, **changes: Any) -> Finetune:
    fields: dict[str, Any] = {"mode": mode, "data": "shards"}
    if mode in ("contrastive", "head", "retrieval"):
        fields["steps"] = 10
    if mode == "contrastive":
        fields["prompts"] = "food101"
    return Finetune.model_validate({**fields, **changes})


@pytest.mark.parametrize("mode", [mode.value for mode in Mode])
def test_settings_survive_the_wire(mode: str) -> None:
    settings = made(mode)
    assert Finetune.model_validate(settings.wire()) == settings


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("head", {"steps": None}, "exactly one of steps and epochs"),
        ("linearProbe", {"steps": 3}, "steps means nothing in mode linearProbe"),
        ("fewShot", {"epochs": 1}, "epochs means nothing in mode fewShot"),
        ("head", {"fewShot": {"ways": 3}}, "fewShot means nothing in mode head, only in fewShot"),
        ("linearProbe", {"head": {"kind": "mlp"}}, "head means nothing in mode linearProbe"),
        ("head", {"compareWithScratch": True}, "compareWithScratch means nothing in mode head"),
        ("head", {"loss": {"reduction": "sum"}}, "loss means nothing in mode head"),
        ("retrieval", {"prompts": "pets"}, "prompts means nothing in mode retrieval"),
        ("contrastive", {"prompts": None}, "mode contrastive needs prompts"),
        ("fewShot", {"validation": "x"}, "validation means nothing in mode fewShot"),
        (
            "head",
            {
                "validation": "x",
                "evaluation": {"classification": [{"name": "a", "data": "x"}]},
            },
            "validation or evaluation, not both",
        ),
        ("fewShot", {"fewShot": {"shots": [5, 5]}}, "different numbers"),
        ("linearProbe", {"linearProbe": {"strengthMin": 10, "strengthMax": 1}}, "must be below"),
        ("head", {"head": {"labelSmoothing": 1.0}}, "less than 1"),
    ],
)
def test_what_makes_no_sense_is_refused(mode: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made(mode, **changes)


def test_modes_say_what_they_take_and_leave() -> None:
    kind = KINDS["finetune"]
    both, towers = ("contrastive", "classification"), ("contrastive",)
    expected = {
        "contrastive": (towers, "contrastive", True),
        "retrieval": (towers, "contrastive", True),
        "head": (both, "classification", True),
        "linearProbe": (both, "classification", False),
        "fewShot": (both, None, False),
    }
    for mode, (takes, leaves, trains) in expected.items():
        settings = made(mode)
        assert tuple(kind.starts_from(settings)) == takes
        assert kind.makes(settings) == leaves
        assert leaves is None or leaves in MODEL_TASKS
        assert settings.trains_in_steps is trains
    assert not kind.needs_model


@pytest.mark.parametrize(
    ("mode", "field"),
    [
        ("head", "classification"),
        ("linearProbe", "classification"),
        ("contrastive", "zero_shot"),
        ("retrieval", "retrieval"),
    ],
)
def test_validation_data_decides_what_is_measured(mode: str, field: str) -> None:
    evaluations = made(mode, validation="s3://held/out").evaluations()
    assert evaluations is not None
    ((kind, one),) = evaluations.chosen()
    assert kind.field == field
    assert one.data == "s3://held/out"
    assert made(mode).evaluations() is None


def test_prompts_name_the_classes_of_validation_data_too() -> None:
    zero_shot = made("contrastive", validation="x", prompts="pets").evaluations()
    head = made("head", validation="x", prompts="pets").evaluations()
    assert zero_shot is not None
    assert zero_shot.zero_shot[0].prompts == "pets"
    assert head is not None
    assert head.classification[0].labels == "pets"


def test_a_karpathy_json_is_read_as_one() -> None:
    evaluations = made("retrieval", validation="coco/dataset_coco.json").evaluations()
    assert evaluations is not None
    assert evaluations.retrieval[0].format == "karpathy"


def test_the_number_of_processes_matters_to_steps_only() -> None:
    assert made("fewShot", batchSize=7).most_processes(4) == 4
    made("linearProbe", batchSize=7).check_processes(4)
    assert made("head", batchSize=9).most_processes(4) == 3
