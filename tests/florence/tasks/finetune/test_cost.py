"""The planner's counts against parameters that were counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from florence.distributed.parameter_rules import apply_rules
from florence.models.classifier import HeadShape, build_classifier
from florence.planner.memory import memory_per_gpu
from florence.tasks.finetune.cost import FinetuneCost, classes_of
from florence.tasks.finetune.head import HeadTraining
from florence.tasks.finetune.settings import Finetune
from florence.tasks.pretrain.cost import PretrainCost
from florence.tasks.pretrain.settings import Pretrain
from tests.florence.tasks.finetune.running import MODEL, context

ARCHITECTURE = MODEL.architecture()
COST = FinetuneCost()


def made(mode: str = "head", **changes: Any) -> Finetune:
    fields: dict[str, Any] = {
        "mode": mode,
        "data": "x",
        "steps": 1,
        "batchSize": 8,
        "resolution": 32,
        "prompts": "digits",
    }
    return Finetune.model_validate({**fields, **changes})


def model_of(settings: Finetune) -> torch.nn.Module:
    head = settings.head
    return build_classifier(
        ARCHITECTURE,
        HeadShape(classes=10, hidden=head.hidden if head.kind == "mlp" else None),
        seed=0,
        window=settings.window or ARCHITECTURE.image.window,
        frozen_tower=head.frozen_tower,
    )


HEADS: list[dict[str, Any]] = [
    {"kind": "linear"},
    {"kind": "mlp", "hidden": 24},
    {"kind": "linear", "frozenTower": True},
]


@pytest.mark.parametrize("head", HEADS)
def test_parameters_are_those_of_the_model(head: dict[str, Any], tmp_path: Any) -> None:
    settings = made(head=head, window=2)
    model = model_of(settings)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert COST.parameters(ARCHITECTURE, settings).total == counted
    rules = HeadTraining(settings, context(tmp_path), None).rules(model)
    training = apply_rules(model, rules, settings.optimizer)
    trained = sum(p.numel() for name, p in model.named_parameters() if not training[name].frozen)
    assert COST.trained_parameters(ARCHITECTURE, settings) == trained


@pytest.mark.parametrize("head", HEADS)
def test_operations_are_those_that_torch_counts(head: dict[str, Any]) -> None:
    settings = made(head=head)
    with FlopCounterMode(display=False) as counter:
        model_of(settings)(torch.zeros(1, 3, 32, 32))
    macs = COST.forward_macs(ARCHITECTURE, settings)
    assert 2 * macs.total == counter.get_total_flops()
    flops = COST.training_flops(ARCHITECTURE, settings).total
    assert flops == (
        2 * macs.image + 6 * macs.head if settings.head.frozen_tower else 3 * 2 * macs.total
    )


def test_a_frozen_tower_needs_less_memory_and_time() -> None:
    common = {"batchSize": 256, "engine": "torch"}
    free, frozen = made(**common), made(**common, head={"frozenTower": True})
    sizes = [
        memory_per_gpu(ARCHITECTURE, each, cost=COST, processes=1, cuda=True)
        for each in (free, frozen)
    ]
    assert sizes[1].activations < sizes[0].activations / 2
    assert sizes[1].model_states < sizes[0].model_states / 2
    assert COST.recomputed_macs(ARCHITECTURE, frozen) == 0


def test_both_towers_cost_what_pretraining_costs() -> None:
    settings = made("contrastive")
    pretrain = Pretrain.model_validate({"data": "x", "steps": 1, "batchSize": 8, "resolution": 32})
    for processes in (1, 4):
        assert memory_per_gpu(
            ARCHITECTURE, settings, cost=COST, processes=processes, cuda=True
        ) == memory_per_gpu(
            ARCHITECTURE, pretrain, cost=PretrainCost(), processes=processes, cuda=True
        )
    assert COST.parameters(ARCHITECTURE, settings) == PretrainCost().parameters(
        ARCHITECTURE, pretrain
    )


def test_the_number_of_classes_is_that_of_the_prompts_where_they_are_built_in() -> None:
    assert classes_of(made(prompts="food101")) == 101
    assert classes_of(made(prompts=None)) == 1000
