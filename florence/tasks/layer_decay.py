"""Layer-wise learning rates: the deeper a block lies below the output, the slower it changes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from florence.distributed.parameter_rules import ParameterRule

_IMAGE_BLOCK = re.compile(r"image\.layers\.(\d+)\.blocks\.(\d+)\.")
_IMAGE_LAYER = re.compile(r"image\.layers\.(\d+)\.")
_TEXT_BLOCK = re.compile(r"text\.transformer\.resblocks\.(\d+)\.")


def layer_decay_rules(model: nn.Module, decay: float) -> Sequence[ParameterRule]:
    """Rules that multiply a tower's rates by ``decay`` once for every block that follows.

    A tower's last block, its norm and projection, and whatever is no tower's are trained at the
    full rate; its embedding is trained like a block before the first one. (BEiT, ELECTRA.)

    Args:
        model: a module with towers called ``image`` and ``text``, or either of them.
        decay: in (0, 1]; 1 gives no rules.
    """
    if decay == 1.0:
        return []
    names = [name for name, _ in model.named_parameters()]
    image = sorted({(int(m[1]), int(m[2])) for name in names if (m := _IMAGE_BLOCK.match(name))})
    text = sorted({int(m[1]) for name in names if (m := _TEXT_BLOCK.match(name))})
    following = {name: _blocks_after(name, image, text) for name in names}
    return [
        ParameterRule(pattern=name, lr_scale=decay**blocks)
        for name, blocks in following.items()
        if blocks
    ]


def _blocks_after(name: str, image: list[tuple[int, int]], text: list[int]) -> int:
    """How many blocks of its tower follow the parameter; 0 for what is behind all of them."""
    if match := _TEXT_BLOCK.match(name):
        return len(text) - 1 - text.index(int(match[1]))
    if match := _IMAGE_BLOCK.match(name):
        return len(image) - 1 - image.index((int(match[1]), int(match[2])))
    if match := _IMAGE_LAYER.match(name):  # a reduction goes with the block that it feeds
        return len(image) - 1 - image.index((int(match[1]), 0))
    if name.startswith("image.patch_embed."):
        return len(image)
    return len(text) if name.startswith("text.") and "embedding" in name else 0
