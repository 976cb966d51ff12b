"""Compile what is worth compiling: the transformer blocks."""

from __future__ import annotations

import torch._dynamo.config
from torch import nn

from florence.models.image import SwinBlock
from florence.models.text import TextBlock

# Four stages, shifted or not, dropping blocks or not, with gradients or without, at two
# resolutions: the default limit of 8 variants of a function, which fullgraph makes an error,
# is reached in ordinary training.
RECOMPILE_LIMIT = 64


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Compile every block of both towers in place; blocks of one shape share their code.

    A whole model would compile for much longer and gain little. Image blocks are specialised to
    their shapes; texts are as long as their batch's longest, so their length stays variable.

    Args:
        model: a module with blocks of either tower inside.
        backend: of ``torch.compile``; ``inductor`` needs a compiler on the path.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    for module in model.modules():
        if isinstance(module, SwinBlock):
            module.compile(backend=backend, fullgraph=True, dynamic=False)
        elif isinstance(module, TextBlock):
            module.compile(backend=backend, fullgraph=True)
