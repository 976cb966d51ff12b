"""Rules reach every parameter that they name, and AdamW."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from florence.config import EngineKind, Optimizer
from florence.distributed.engine import Engine
from florence.distributed.engines import make_engine
from florence.distributed.optimizer import adamw
from florence.distributed.parameter_rules import (
    ParameterRule,
    ParameterTraining,
    apply_rules,
    bounds,
    clamp,
    freeze,
    optimizer_groups,
    set_learning_rate,
)
from florence.distributed.world import World
from florence.losses.contrastive import ContrastiveObjective
from tests.florence.distributed.tiny import TinyTwoTower, tiny_batch, tiny_settings

SETTINGS = Optimizer(lr=0.1, weight_decay=0.2)


def engine(*rules: ParameterRule) -> Engine:
    settings = tiny_settings(
        optimizer=Optimizer(lr=0.01, weight_decay=0.1, clip_norm=0.0, warmup_steps=0)
    )
    objective = ContrastiveObjective(settings.loss)
    return make_engine(
        EngineKind.TORCH, TinyTwoTower(), settings, objective, World(), rules=list(rules)
    )


def trained(steps: int, *rules: ParameterRule, lr: float = 0.01) -> dict[str, torch.Tensor]:
    """Parameters after some steps."""
    one = engine(*rules)
    for step in range(steps):
        one.step(tiny_batch(step), lr=lr)
    return one.model_state()


def test_without_rules_everything_is_trained_alike() -> None:
    model = TinyTwoTower()
    training = apply_rules(model, [], SETTINGS)
    assert set(training) == {name for name, _ in model.named_parameters()}
    assert set(training.values()) == {ParameterTraining(weight_decay=0.2)}
    (group,) = optimizer_groups(model, training)
    assert group["params"] == list(model.parameters())
    assert (group["weight_decay"], group["lr_scale"]) == (0.2, 1.0)


def test_patterns_match_whole_names_and_later_rules_win_value_by_value() -> None:
    training = apply_rules(
        TinyTwoTower(),
        [
            ParameterRule(pattern="image.*", lr_scale=0.1, weight_decay=0.0),
            ParameterRule(pattern="*.weight", weight_decay=0.3),
            ParameterRule(pattern="image.2.weight", lr_scale=50.0, maximum=2.0),
            ParameterRule(pattern="text.?.bias", frozen=True),
            ParameterRule(pattern="text.3.bias", frozen=False, weight_decay=0.0),
        ],
        SETTINGS,
    )
    expected = {
        "image.1.weight": ParameterTraining(lr_scale=0.1, weight_decay=0.3),
        "image.1.bias": ParameterTraining(lr_scale=0.1, weight_decay=0.0),
        "image.2.weight": ParameterTraining(lr_scale=50.0, weight_decay=0.3, maximum=2.0),
        "image.2.bias": ParameterTraining(lr_scale=0.1, weight_decay=0.0),
        # "image.*" is no prefix of it: patterns are not cut at dots, but the dot must be there.
        "image_projection.weight": ParameterTraining(weight_decay=0.3),
        "embedding.weight": ParameterTraining(weight_decay=0.3),
        "text.0.weight": ParameterTraining(weight_decay=0.3),
        "text.0.bias": ParameterTraining(weight_decay=0.2, frozen=True),
        "text.3.weight": ParameterTraining(weight_decay=0.3),
        "text.3.bias": ParameterTraining(weight_decay=0.0),
        "logit_scale": ParameterTraining(weight_decay=0.2),
    }
    assert training == expected


@pytest.mark.parametrize("pattern", ["head.*", "image", "Image.*", "image.1.weights"])
def test_a_rule_that_matches_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(
        ValueError, match=f"rule '{pattern}' matches no parameter".replace("*", ".")
    ):
        apply_rules(TinyTwoTower(), [ParameterRule(pattern=pattern, lr_scale=2.0)], SETTINGS)


def test_a_model_that_is_frozen_as_a_whole_is_refused() -> None:
    rules = [ParameterRule(pattern="*", frozen=True)]
    with pytest.raises(ValueError, match="every parameter is frozen"):
        apply_rules(TinyTwoTower(), rules, SETTINGS)
    apply_rules(
        TinyTwoTower(), [*rules, ParameterRule(pattern="logit_scale", frozen=False)], SETTINGS
    )


NAMES = [name for name, _ in TinyTwoTower().named_parameters()]
RULES = st.builds(
    ParameterRule,
    pattern=st.sampled_from([*NAMES, "*", "image.*", "text.*", "*.bias", "*.weight"]),
    lr_scale=st.sampled_from([None, 0.1, 1.0, 50.0]),
    weight_decay=st.sampled_from([None, 0.0, 0.05, 0.2]),
    frozen=st.sampled_from([None, None, True, False]),
    maximum=st.sampled_from([None, 1.0]),
)


@given(st.lists(RULES, max_size=6))
def test_groups_hold_every_trained_parameter_once_and_are_unique(
    rules: list[ParameterRule],
) -> None:
    model = TinyTwoTower()
    rules = [*rules, ParameterRule(pattern="logit_scale", frozen=False)]
    training = apply_rules(model, rules, SETTINGS)
    groups = optimizer_groups(model, training)
    keys = [(group["weight_decay"], group["lr_scale"]) for group in groups]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys, reverse=True)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = {
        names[id(parameter)]: key
        for group, key in zip(groups, keys, strict=True)
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(grouped)
    assert grouped == {
        name: (each.weight_decay, each.lr_scale)
        for name, each in training.items()
        if not each.frozen
    }
    freeze(model, training)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == set(grouped)
    assert bounds(training).keys() <= set(grouped), "what is frozen is not clamped either"


def test_groups_do_not_depend_on_what_order_rules_come_in() -> None:
    """Flat partitions are laid out by groups: two attempts must lay out alike."""
    model = TinyTwoTower()
    rules = [
        ParameterRule(pattern="image.*", lr_scale=0.1),
        ParameterRule(pattern="*.bias", weight_decay=0.0),
    ]
    one = optimizer_groups(model, apply_rules(model, rules, SETTINGS))
    other = optimizer_groups(model, apply_rules(model, rules[::-1], SETTINGS))
    assert [[id(p) for p in g["params"]] for g in one] == [
        [id(p) for p in g["params"]] for g in other
    ]


def test_a_scaled_parameter_moves_as_if_trained_at_the_scaled_rate() -> None:
    """AdamW's decay is decoupled: it is scaled with the rate, as at another rate."""
    scaled, plain = (nn.Parameter(torch.linspace(-1, 1, 8)) for _ in range(2))
    one = adamw([{"params": [scaled], "weight_decay": 0.2, "lr_scale": 0.1}], SETTINGS)
    other = adamw([{"params": [plain], "weight_decay": 0.2, "lr_scale": 1.0}], SETTINGS)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        grad = torch.randn(8, generator=generator)
        scaled.grad, plain.grad = grad.clone(), grad.clone()
        set_learning_rate(one, 0.02)
        set_learning_rate(other, 0.02 * 0.1)
        one.step()
        other.step()
    assert torch.equal(scaled, plain)
    assert not torch.equal(scaled, torch.linspace(-1, 1, 8))


def test_a_scale_reaches_the_parameters_that_a_rule_names_and_no_others() -> None:
    rule = ParameterRule(pattern="text.3.*", lr_scale=0.1)
    scaled, full, tenth = trained(1, rule), trained(1), trained(1, lr=0.001)
    for name, tensor in scaled.items():
        expected = tenth if name.startswith("text.3.") else full
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-8)
        assert not torch.equal(full[name], tenth[name])


def test_a_rate_of_zero_is_no_movement() -> None:
    before = engine().model_state()
    after = trained(3, ParameterRule(pattern="image.*", lr_scale=0.0))
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("image.")}


def test_a_frozen_parameter_stays_bit_by_bit_whatever_else_holds_for_it() -> None:
    frozen = ParameterRule(pattern="image.1.*", frozen=True)
    bounded = ParameterRule(pattern="image.1.*", maximum=-5.0, lr_scale=50.0)
    before, after = engine().model_state(), trained(4, frozen, bounded)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"image.1.weight", "image.1.bias"}


def test_a_weight_decay_reaches_the_parameters_that_a_rule_names() -> None:
    rules = [
        ParameterRule(pattern="*", weight_decay=0.0),
        ParameterRule(pattern="text.0.weight", weight_decay=0.5),
    ]
    plain, decayed = trained(1, rules[0]), trained(1, *rules)
    before = TinyTwoTower().text[0].weight.detach()
    differing = {name for name in plain if not torch.equal(plain[name], decayed[name])}
    assert differing == {"text.0.weight"}
    torch.testing.assert_close(
        plain["text.0.weight"] - decayed["text.0.weight"],
        0.01 * 0.5 * before,
        rtol=1e-3,
        atol=1e-7,
    )


def test_a_maximum_clamps_after_every_step() -> None:
    one = engine(
        ParameterRule(pattern="logit_scale", maximum=2.25),
        ParameterRule(pattern="text.0.weight", maximum=0.25),
    )
    free = trained(3)
    assert float(free["text.0.weight"].max()) > 0.25
    for step in range(3):
        one.step(tiny_batch(step), lr=0.01)
        state = one.model_state()
        assert float(state["logit_scale"]) <= 2.25
        assert float(state["text.0.weight"].max()) <= 0.25
        assert float(state["text.0.weight"].min()) < -0.25, "only from above"


@given(st.lists(st.floats(-10, 10, width=32), min_size=1), st.floats(-10, 10, width=32))
def test_clamping_is_elementwise(values: list[float], maximum: float) -> None:
    tensor = torch.tensor(values)
    clamp([(tensor, maximum)])
    assert tensor.tolist() == [min(value, maximum) for value in values]
