"""How each parameter is trained: rate, decay, freezing, bounds, said by name and not by engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from florence.config import Optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterRule:
    """What holds for the parameters whose names match; ``None`` leaves a value as it is.

    Later rules win over earlier ones, value by value.

    Attributes:
        pattern: a whole parameter name, or a shell pattern over them, such as ``image.*``.
        lr_scale: what the learning rate is multiplied by.
        weight_decay: decoupled weight decay, in place of ``optimizer.weightDecay``.
        frozen: whether the parameter stays as it is, whatever else holds for it.
        maximum: what its elements are clamped to after every step.
    """

    pattern: str
    lr_scale: float | None = None
    weight_decay: float | None = None
    frozen: bool | None = None
    maximum: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ParameterTraining:
    """How one parameter is trained; the fields are those of :class:`ParameterRule`."""

    lr_scale: float = 1.0
    weight_decay: float = 0.0
    frozen: bool = False
    maximum: float | None = None


def apply_rules(
    model: nn.Module, rules: Sequence[ParameterRule], optimizer: Optimizer
) -> dict[str, ParameterTraining]:
    """How each parameter of ``model`` is trained, by name.

    Raises:
        ValueError: a rule matches no parameter, or all parameters are frozen.
    """
    training = {
        name: ParameterTraining(weight_decay=optimizer.weight_decay)
        for name, _ in model.named_parameters()
    }
    for rule in rules:
        given = {
            key: value
            for key in ("lr_scale", "weight_decay", "frozen", "maximum")
            if (value := getattr(rule, key)) is not None
        }
        if rule.pattern in training:
            matched = [rule.pattern]  # most rules are for one parameter: no need to search
        else:
            matched = [name for name in training if fnmatchcase(name, rule.pattern)]
        if not matched:
            raise ValueError(f"rule '{rule.pattern}' matches no parameter")
        for name in matched:
            training[name] = replace(training[name], **given)
    if all(each.frozen for each in training.values()):
        raise ValueError("every parameter is frozen: there is nothing to train")
    return training


def freeze(model: nn.Module, training: Mapping[str, ParameterTraining]) -> None:
    """Take the frozen parameters out of the backward pass."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not training[name].frozen)


def optimizer_groups(
    model: nn.Module, training: Mapping[str, ParameterTraining]
) -> list[dict[str, Any]]:
    """AdamW's groups: trained parameters of one rate and decay each, those with decay first."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        each = training[name]
        if not each.frozen:
            groups.setdefault((each.weight_decay, each.lr_scale), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in sorted(
            groups.items(), key=lambda group: group[0], reverse=True
        )
    ]


def bounds(training: Mapping[str, ParameterTraining]) -> dict[str, float]:
    """What trained parameters are clamped to after a step, by name."""
    return {
        name: each.maximum
        for name, each in training.items()
        if each.maximum is not None and not each.frozen
    }


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate times its scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


@torch.no_grad()
def clamp(tensors: Sequence[tuple[Tensor, float]]) -> None:
    """Clamp tensors from above, in place."""
    for tensor, maximum in tensors:
        tensor.clamp_(max=maximum)
