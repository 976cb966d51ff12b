from __future__ import annotations

import pytest

from florence.checkpoint import configuration_digest as digest
from florence.config import PRESETS
from florence.stages.fingerprint import differences, stage_fingerprint
from florence.tasks.pretrain.settings import Pretrain

BASE = {"data": "d", "batchSize": 8, "steps": 4}


def of(fields: dict[str, object], data: str = "f") -> dict[str, object]:
    return stage_fingerprint(
        PRESETS["coswin-nano"], Pretrain.model_validate({**BASE, **fields}), data
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"engine": "deepspeed", "zeroStage": 3},
        {"gradientCacheChunks": 4, "activationCheckpointing": "full", "compile": True},
        {"loader": {"workers": 7, "cacheBytes": 1 << 21}},
        {"loss": {"rowChunk": 8}, "evaluateEverySteps": 2},
        {"checkpoints": {"everySteps": 1}, "logEverySteps": 3, "data": "elsewhere"},
    ],
)
def test_settings_of_speed_and_place_may_change_between_attempts(fields: dict[str, object]) -> None:
    assert digest(of(fields)) == digest(of({}))


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"batchSize": 16}, "batchSize: 8 -> 16"),
        ({"optimizer": {"lr": 1.0}}, "optimizer.lr: 0.0005 -> 1.0"),
        ({"loader": {"shuffleWindow": 3}}, "loader.shuffleWindow: 32768 -> 3"),
        ({"seed": 2}, "seed: 0 -> 2"),
        ({"precision": "bf16"}, "precision: fp32 -> bf16"),
    ],
)
def test_settings_that_decide_the_result_are_named_when_they_differ(
    fields: dict[str, object], path: str
) -> None:
    assert differences(of({}), of(fields)) == [path]
    assert digest(of({})) != digest(of(fields))


def test_evaluations_decide_the_result_of_a_plateau_only() -> None:
    plateau = {"optimizer": {"schedule": "plateau"}}
    one, other = of({**plateau, "evaluateEverySteps": 2}), of({**plateau, "evaluateEverySteps": 3})
    assert differences(one, other) == ["evaluateEverySteps: 2 -> 3"]


def test_other_data_is_another_trajectory() -> None:
    assert differences(of({}), of({}, data="g")) == ["data: f -> g"]
