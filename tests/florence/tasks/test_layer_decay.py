"""Layer-wise rates: exact exponents, by the names of parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from florence.config import Optimizer
from florence.distributed.parameter_rules import apply_rules
from florence.tasks.layer_decay import layer_decay_rules


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2)


def image_tower(depths: tuple[int, ...]) -> nn.Module:
    """A module with the names of a hierarchical Swin with convolutional embeddings."""
    tower = nn.Module()
    tower.patch_embed = Norm()
    tower.layers = nn.ModuleList()
    for number, depth in enumerate(depths):
        layer = nn.Module()
        if number:
            layer.downsample = Norm()
        layer.blocks = nn.ModuleList(Norm() for _ in range(depth))
        tower.layers.append(layer)
    tower.norm = nn.LayerNorm(2)
    tower.projection = nn.Linear(2, 2)
    return tower


def text_tower(blocks: int) -> nn.Module:
    tower = nn.Module()
    tower.token_embedding = nn.Embedding(3, 2)
    tower.positional_embedding = nn.Parameter(nn.Embedding(3, 2).weight.detach())
    tower.transformer = nn.Module()
    tower.transformer.resblocks = nn.ModuleList(Norm() for _ in range(blocks))
    tower.ln_final = nn.LayerNorm(2)
    tower.text_projection = nn.Parameter(nn.Embedding(3, 2).weight.detach())
    return tower


def two_towers(depths: tuple[int, ...] = (2, 1, 3), blocks: int = 3) -> nn.Module:
    model = nn.Module()
    model.image, model.text = image_tower(depths), text_tower(blocks)
    model.logit_scale = nn.Parameter(nn.Embedding(1, 1).weight.detach())
    return model


def scales(model: nn.Module, decay: float) -> dict[str, float]:
    """The rate of every parameter relative to the peak; one name for a module's two."""
    training = apply_rules(model, layer_decay_rules(model, decay), Optimizer())
    found: dict[str, float] = {}
    for name, each in training.items():
        short = name.removesuffix(".weight").removesuffix(".bias").removesuffix(".norm")
        assert found.setdefault(short, each.lr_scale) == each.lr_scale
    return found


def test_every_block_that_follows_counts_once() -> None:
    expected = {
        # Six blocks in three layers, numbered through.
        "image.patch_embed": 6,
        "image.layers.0.blocks.0": 5,
        "image.layers.0.blocks.1": 4,
        "image.layers.1.downsample": 3,
        "image.layers.1.blocks.0": 3,
        "image.layers.2.downsample": 2,
        "image.layers.2.blocks.0": 2,
        "image.layers.2.blocks.1": 1,
        "image.layers.2.blocks.2": 0,
        "image": 0,  # its norm
        "image.projection": 0,
        "text.token_embedding": 3,
        "text.positional_embedding": 3,
        "text.transformer.resblocks.0": 2,
        "text.transformer.resblocks.1": 1,
        "text.transformer.resblocks.2": 0,
        "text.ln_final": 0,
        "text.text_projection": 0,
        "logit_scale": 0,
    }
    found = scales(two_towers(), 0.5)
    assert found == {name: 0.5**exponent for name, exponent in expected.items()}


def test_blocks_are_in_the_order_of_their_numbers_not_of_their_names() -> None:
    """With more than ten blocks "10" sorts before "2"."""
    found = scales(two_towers((2, 12), 12), 0.9)
    for block in range(12):
        assert found[f"image.layers.1.blocks.{block}"] == pytest.approx(0.9 ** (11 - block))
        assert found[f"text.transformer.resblocks.{block}"] == pytest.approx(0.9 ** (11 - block))
    assert found["image.layers.0.blocks.0"] == pytest.approx(0.9**13)


def test_a_tower_alone_and_a_head_behind_it() -> None:
    model = nn.Module()
    model.image, model.head = image_tower((1, 1)), nn.Linear(2, 5)
    found = scales(model, 0.75)
    assert found["head"] == 1.0
    assert found["image.patch_embed"] == 0.75**2
    assert found["image.layers.0.blocks.0"] == 0.75
    texts = nn.Module()
    texts.text = text_tower(2)
    assert scales(texts, 0.75)["text.token_embedding"] == 0.75**2


def test_one_trains_all_alike() -> None:
    assert layer_decay_rules(two_towers(), 1.0) == []


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    st.integers(1, 13),
    st.floats(0.01, 0.99),
)
def test_rates_never_fall_towards_the_output(
    depths: tuple[int, ...], blocks: int, decay: float
) -> None:
    found = scales(two_towers(depths, blocks), decay)
    image = [
        found[f"image.layers.{layer}.blocks.{block}"]
        for layer, depth in enumerate(depths)
        for block in range(depth)
    ]
    text = [found[f"text.transformer.resblocks.{block}"] for block in range(blocks)]
    for embedding, tower in (("image.patch_embed", image), ("text.token_embedding", text)):
        rates = [found[embedding], *tower]
        assert rates[-1] == 1.0
        assert rates == pytest.approx([decay ** (len(rates) - 1 - i) for i in range(len(rates))])
