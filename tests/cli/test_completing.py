from __future__ import annotations

import pytest

from florence.config import ModelConfig
from florence.tasks.finetune.settings import Finetune
from florence.tasks.pretrain.settings import Pretrain
from florencectl.completing import setting_paths


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("batch", ["batchSize="]),
        ("optimizer", ["optimizer."]),
        ("optimizer.b", ["optimizer.beta1=", "optimizer.beta2="]),
        ("engine=", ["engine=auto", "engine=torch", "engine=deepspeed"]),
        ("optimizer.schedule=c", ["optimizer.schedule=constant", "optimizer.schedule=cosine"]),
        ("compile=t", ["compile=true"]),
        ("steps=", []),
        ("nothing.at.all", []),
        ("steps.more", []),
        ("evaluateEvery", ["evaluateEverySteps="]),
    ],
)
def test_paths_of_settings_go_on_as_one_writes_them(typed: str, offered: list[str]) -> None:
    assert setting_paths(Pretrain, typed) == offered


def test_settings_of_a_kind_and_of_the_model_are_offered() -> None:
    assert setting_paths(Finetune, "head.fro") == ["head.frozenTower="]
    assert setting_paths(ModelConfig, "image.w") == ["image.width=", "image.window="]
