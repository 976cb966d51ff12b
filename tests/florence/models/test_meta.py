"""Modules that are built without values."""

from __future__ import annotations

import torch
from torch import nn

from florence.models.meta import on_meta


def test_nothing_is_drawn_and_shapes_stay() -> None:
    before = torch.get_rng_state()
    with on_meta():
        modules = [
            nn.Linear(3, 5),
            nn.Embedding(7, 3),
            nn.LayerNorm(3),
            nn.MultiheadAttention(4, 2),
            nn.Conv2d(3, 4, 2),
        ]
    for module in modules:
        assert all(parameter.is_meta for parameter in module.parameters())
    assert modules[0].weight.shape == (5, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_outside_are_initialised_as_ever() -> None:
    with on_meta():
        nn.Linear(2, 2)
    torch.manual_seed(0)
    ours = nn.Linear(64, 64)
    assert not ours.weight.is_meta
    assert 0 < float(ours.weight.std()) < 1
