"""The parameters of version 1 models: their names, shapes and the order they were drawn in."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from florence.config import Architecture


def version_1_state(
    architecture: Architecture, *, seed: int, temperature: float = 0.07
) -> dict[str, Tensor]:
    """What ``build_model`` of the version 1 names made of a seed, written down a second time."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def truncated(name: str, *shape: int) -> None:
        state[name] = torch.empty(shape)
        torch.nn.init.trunc_normal_(state[name], std=0.02, generator=generator)

    def normal(name: str, std: float, *shape: int) -> None:
        state[name] = torch.empty(shape).normal_(0, std, generator=generator)

    def constants(name: str, width: int) -> None:
        """A layer norm."""
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    image = architecture.image
    for stage, (depth, heads) in enumerate(zip(image.depths, image.heads, strict=True)):
        width, start = image.width << stage, f"image.stages.{stage}"
        kernel, channels = (7, 3) if stage == 0 else (3, width // 2)
        truncated(f"{start}.embedding.proj.weight", width, channels, kernel, kernel)
        state[f"{start}.embedding.proj.bias"] = torch.zeros(width)
        constants(f"{start}.embedding.norm", width)
        for block in (f"{start}.blocks.{number}" for number in range(depth)):
            truncated(f"{block}.attention.qkv.weight", 3 * width, width)
            truncated(f"{block}.attention.proj.weight", width, width)
            truncated(f"{block}.attention.bias_table", (2 * image.window - 1) ** 2, heads)
            truncated(f"{block}.mlp.fc1.weight", image.mlp_ratio * width, width)
            truncated(f"{block}.mlp.fc2.weight", width, image.mlp_ratio * width)
            state[f"{block}.attention.qkv.bias"] = torch.zeros(3 * width)
            state[f"{block}.mlp.fc1.bias"] = torch.zeros(image.mlp_ratio * width)
            for name in ("attention.proj", "mlp.fc2"):
                state[f"{block}.{name}.bias"] = torch.zeros(width)
            for name in ("norm1", "norm2"):
                constants(f"{block}.{name}", width)
    constants("image.norm", 8 * image.width)
    truncated("image.projection.weight", architecture.embed_dim, 8 * image.width)

    text = architecture.text
    width, narrow = text.width, (2 * text.layers * text.width) ** -0.5
    normal("text.token_embedding.weight", 0.02, text.vocabulary, width)
    normal("text.positional_embedding", 0.01, text.context, width)
    for block in (f"text.blocks.{number}" for number in range(text.layers)):
        normal(f"{block}.attention.qkv.weight", width**-0.5, 3 * width, width)
        normal(f"{block}.attention.proj.weight", narrow, width, width)
        normal(f"{block}.mlp.fc1.weight", (2 * width) ** -0.5, text.hidden, width)
        normal(f"{block}.mlp.fc2.weight", narrow, width, text.hidden)
        state[f"{block}.attention.qkv.bias"] = torch.zeros(3 * width)
        state[f"{block}.attention.proj.bias"] = torch.zeros(width)
        state[f"{block}.mlp.fc1.bias"] = torch.zeros(text.hidden)
        state[f"{block}.mlp.fc2.bias"] = torch.zeros(width)
        for name in ("norm1", "norm2"):
            constants(f"{block}.{name}", width)
    constants("text.norm", width)
    normal("text.projection.weight", width**-0.5, architecture.embed_dim, width)
    state["log_scale"] = torch.full((1,), math.log(1 / temperature))
    return state
