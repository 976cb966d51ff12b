"""What every settings model takes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from florence.config import Augmentation, Evaluate, Loader, Optimizer, Settings
from florence.config.base import setting
from florence.kinds import KINDS
from florence.tasks.finetune.settings import FewShotSettings
from florence.tasks.pretrain.settings import Pretrain
from florence_operator.api import JobSpec

PRETRAIN: dict[str, Any] = {"data": "d", "batch_size": 4, "steps": 4}


class Mixed(Settings):
    """Fields that take several types."""

    number: int | str = setting(0, description="a number or a name")
    switch: bool | int = setting(0, description="a switch or a number")
    anything: dict[str, Any] = setting({}, description="anything")


@pytest.mark.parametrize(
    ("model", "fields", "path"),
    [
        (Pretrain, {**PRETRAIN, "steps": True}, "steps"),
        (Pretrain, {**PRETRAIN, "batchSize": False}, "batchSize"),
        (Pretrain, {**PRETRAIN, "optimizer": {"lr": True}}, "optimizer.lr"),
        (Pretrain, {**PRETRAIN, "loader": {"workers": True}}, "loader.workers"),
        (Optimizer, {"decayAt": [0.5, True]}, "decayAt"),
        (Augmentation, {"mean": [0.1, 0.2, False]}, "mean"),
        (FewShotSettings, {"shots": [True]}, "shots"),
        (Evaluate, {"zeroShot": [], "batchSize": True}, "batchSize"),
        (Mixed, {"number": True}, "number"),
        (JobSpec, {"stages": [], "runPolicy": {"retry": True}}, "runPolicy.retry"),
    ],
)
def test_a_boolean_is_no_number(model: type[Settings], fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(fields)
    (found,) = [e for e in refused.value.errors() if e["type"] in ("int_type", "float_type")]
    assert ".".join(map(str, found["loc"])) == path


def test_all_that_can_be_meant_as_a_number_is_one() -> None:
    assert Optimizer.model_validate({"lr": "1e-4"}).lr == 1e-4  # YAML 1.1 takes that for a text
    assert Optimizer.model_validate({"lr": 1, "warmupSteps": 10.0}).warmup_steps == 10
    assert Loader.model_validate({"workers": "3"}).workers == 3
    assert Mixed.model_validate({"switch": True, "anything": {"a": True}}).switch is True
    assert Pretrain.model_validate({**PRETRAIN, "compile": True, "window": None}).compile is True


@pytest.mark.parametrize("kind", KINDS)
def test_no_number_of_any_kind_takes_a_boolean(kind: str) -> None:
    """Field by field, whatever the type is written as."""
    for name, field in KINDS[kind].settings.model_fields.items():
        if field.annotation in (int, float, int | None, float | None):
            with pytest.raises(ValidationError) as refused:
                KINDS[kind].settings.model_validate({name: True})
            types = {
                e["type"] for e in refused.value.errors() if e["loc"] in ((name,), (field.alias,))
            }
            assert types & {"int_type", "float_type"}, name
