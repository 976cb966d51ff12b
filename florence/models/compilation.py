"""Compile what is worth compiling: the transformer blocks."""

from __future__ import annotations

import torch._dynamo.config
from torch import nn

from florence.models.bert import BertLayer
from florence.models.image import SwinBlock
from florence.models.text import TextBlock

# Four stages, shifted or not, dropping blocks or not, with gradients or without, at two
# resolutions: the default limit of 8 variants of a function, which fullgraph makes an error,
# is reached in ordinary training.
RECOMPILE_LIMIT = 64


def compile_blocks(model: nn.Module, *, dynamic: bool = False, backend: str = "inductor") -> None:
    """Compile every block of towers and fusion in place; blocks of one shape share their code.

    A whole model would compile for much longer and gain little. Texts are as long as their batch's
    longest, so their length is always variable.

    Args:
        model: a module with blocks of either tower inside.
        dynamic: whether image sizes vary from step to step. Image blocks are specialised to their
            shapes otherwise, which makes the fastest code and is an error from about the 14th size
            on. Variable, they compile once for every way in which a map relates to its windows:
            tiled or padded, wider or narrower than a window, per axis.
        backend: of ``torch.compile``; ``inductor`` needs a compiler on the path.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
    for module in model.modules():
        if isinstance(module, SwinBlock):
            module.compile(backend=backend, fullgraph=True, dynamic=dynamic)
        elif isinstance(module, TextBlock | BertLayer):
            module.compile(backend=backend, fullgraph=True)
