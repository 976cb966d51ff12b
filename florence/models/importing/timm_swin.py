"""Swin checkpoints: timm's, and those with the names of Swin's own release.

Ours are timm's names. Swin's release and timm before 0.9 merge patches at the end of a stage, so
that ``layers.0.downsample`` there is ``layers.1.downsample`` here.
"""

from __future__ import annotations

import math
import re

from pydantic import ValidationError
from torch import Tensor

from florence.config.base import first_problem
from florence.config.model import Embedding, ImageTower
from florence.errors import DataError
from florence.models.importing.part import Part, count_blocks, required
from florence.models.window_resize import TABLE

# Functions of the sizes, which newer programs do not save and ours computes.
_COMPUTED = re.compile(r"\.(relative_position_index|attn_mask)$")


def is_swin(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of a Swin transformer of the first version."""
    return "patch_embed.proj.weight" in state and f"layers.0.blocks.0.attn.{TABLE}" in state


def read_swin(state: dict[str, Tensor], source: str) -> Part:
    """An image tower of Swin's names without a prefix; the classifier is left behind.

    Raises:
        DataError: it is not a Swin transformer that our tower computes.
    """
    if "absolute_pos_embed" in state:
        raise DataError(f"{source}: a Swin with absolute positions, which this tower has not")
    shifted = "layers.0.downsample.reduction.weight" in state
    ours: dict[str, Tensor] = {}
    unused = []
    for name, value in state.items():
        if _COMPUTED.search(name):
            continue
        if name.startswith("head."):
            unused.append(name)
            continue
        ours[_at_the_start(name) if shifted else name] = value
    tower = _tower(ours, source)
    return Part(
        image=tower,
        state={f"image.{name}": value for name, value in ours.items()},
        unused=tuple(unused),
    )


def _at_the_start(name: str) -> str:
    found = re.match(r"layers\.(\d+)(\.downsample\..*)", name)
    return f"layers.{int(found[1]) + 1}{found[2]}" if found else name


def _tower(state: dict[str, Tensor], source: str) -> ImageTower:
    """The sizes that the shapes say."""
    kernel = required(state, "patch_embed.proj.weight", source)
    if count_blocks(state, "layers") != 4 or tuple(kernel.shape[1:]) != (3, 4, 4):
        raise DataError(
            f"{source}: a Swin of {count_blocks(state, 'layers')} stages on patches of shape "
            f"{tuple(kernel.shape[1:])}: this tower has four stages on (3, 4, 4)"
        )
    width = kernel.shape[0]
    tables = [required(state, f"layers.{n}.blocks.0.attn.{TABLE}", source) for n in range(4)]
    hidden = required(state, "layers.0.blocks.0.mlp.fc1.weight", source).shape[0]
    try:
        return ImageTower.model_validate(
            {
                "width": width,
                "depths": [count_blocks(state, f"layers.{n}.blocks") for n in range(4)],
                "heads": [table.shape[1] for table in tables],
                # A stage whose map was smaller than a window has a smaller table.
                "window": max((math.isqrt(len(table)) + 1) // 2 for table in tables),
                "mlp_ratio": hidden // width,
                "embedding": Embedding.SWIN,
            }
        )
    except ValidationError as error:
        raise DataError(f"{source}: not the sizes of a Swin: {first_problem(error)}") from error
