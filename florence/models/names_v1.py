"""Names that parameters had in model files of card version 1, and what they are called now.

========================================  ====================================================
version 1                                 since version 2
========================================  ====================================================
``log_scale``                             ``logit_scale``
``image.stages.0.embedding.*``            ``image.patch_embed.*``
``image.stages.I.embedding.*``            ``image.layers.I.downsample.*``
``image.stages.I.blocks.J.attention.*``   ``image.layers.I.blocks.J.attn.*``
``….bias_table``                          ``….relative_position_bias_table``
``text.blocks.I.norm1``, ``norm2``        ``text.transformer.resblocks.I.ln_1``, ``ln_2``
``text.blocks.I.attention.qkv.weight``    ``….attn.in_proj_weight``, likewise the bias
``text.blocks.I.attention.proj.*``        ``….attn.out_proj.*``
``text.blocks.I.mlp.fc1``, ``fc2``        ``….mlp.c_fc``, ``c_proj``
``text.norm.*``                           ``text.ln_final.*``
``text.projection.weight`` (D, W)         ``text.text_projection`` (W, D), its transpose
========================================  ====================================================

All others are as they were.
"""

from __future__ import annotations

import re

from torch import Tensor

_IMAGE = (
    (r"^stages\.0\.embedding\.", "patch_embed."),
    (r"^stages\.(\d+)\.embedding\.", r"layers.\1.downsample."),
    (r"^stages\.", "layers."),
    (r"\.attention\.", ".attn."),
    (r"\.bias_table$", ".relative_position_bias_table"),
)
_TEXT = (
    (r"^blocks\.(\d+)\.norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"^blocks\.", "transformer.resblocks."),
    (r"\.attention\.qkv\.", ".attn.in_proj_"),
    (r"\.attention\.proj\.", ".attn.out_proj."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"^norm\.", "ln_final."),
    (r"^projection\.weight$", "text_projection"),
)


def renamed_from_version_1(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A version 1 state under today's names; the text projection is transposed (and copied)."""
    result = {}
    for old, value in state.items():
        name = _today(old)
        result[name] = value.t().contiguous() if old == "text.projection.weight" else value
    return result


def _today(old: str) -> str:
    tower, _, name = old.partition(".")
    for pattern, replacement in {"image": _IMAGE, "text": _TEXT}.get(tower, ()):
        name = re.sub(pattern, replacement, name)
    return "logit_scale" if old == "log_scale" else old if not name else f"{tower}.{name}"
