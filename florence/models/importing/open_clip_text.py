"""CLIP checkpoints with open_clip's names: the text tower, and the image tower where it is a Swin.

A text tower stands at the root (OpenAI's CLIP, open_clip's ``CLIP``, a ``TextTransformer`` alone)
or under ``text.`` (open_clip's ``CustomTextCLIP``).
"""

from __future__ import annotations

from pydantic import ValidationError
from torch import Tensor

from florence.config.base import first_problem
from florence.config.model import Activation, TextTower
from florence.errors import DataError
from florence.models.importing.part import CLIP, Part, count_blocks, required, without_prefix
from florence.models.importing.settings import ImportSettings
from florence.models.importing.timm_swin import is_swin, read_swin

VOCABULARY = 49_408
_TRUNK = "visual.trunk."
_TEXT = (
    "token_embedding.",
    "positional_embedding",
    "transformer.",
    "ln_final.",
    "text_projection",
)


def is_clip(state: dict[str, Tensor]) -> bool:
    """Whether a text tower of open_clip's names is in it."""
    return any(f"{prefix}token_embedding.weight" in state for prefix in ("", "text."))


def read_clip(state: dict[str, Tensor], settings: ImportSettings, source: str) -> Part:
    """The text tower, the temperature, and an image tower that is timm's Swin.

    Raises:
        DataError: the text tower is not one of CLIP's that our tower computes.
    """
    prefix = "" if "token_embedding.weight" in state else "text."
    ours: dict[str, Tensor] = {}
    unused = []
    trunk = without_prefix(state, _TRUNK)
    image = read_swin(trunk, source) if is_swin(trunk) else None
    for name, value in state.items():
        inner = name.removeprefix(prefix)
        if name == "logit_scale":
            ours[name] = value.reshape(1)
        elif image is not None and name == "visual.head.proj.weight":
            ours["image.projection.weight"] = value
        elif name.startswith(prefix) and inner == "text_projection.weight":
            ours["text.text_projection"] = value.t()
        elif name.startswith(prefix) and inner.startswith(_TEXT):
            ours[f"text.{inner}"] = value
        elif not (image is not None and name.startswith(_TRUNK)) and inner != "attn_mask":
            unused.append(name)
    text = text_tower(without_prefix(ours, "text."), settings, source, Activation.GELU, 1e-5)
    if image is not None:
        ours |= image.state
        unused += [f"{_TRUNK}{name}" for name in image.unused]
    return Part(image.image if image else None, text, ours, tuple(unused), pixels=CLIP)


def text_tower(
    state: dict[str, Tensor],
    settings: ImportSettings,
    source: str,
    activation: Activation,
    norm_eps: float,
) -> TextTower:
    """The sizes that the shapes of a text tower under our names say.

    Args:
        state: without a prefix.
        settings: heads and activation, which no shape says.
        source: what messages call the checkpoint.
        activation: the project's own, where the settings have none.
        norm_eps: the project's own.

    Raises:
        DataError: a tensor is missing, or the vocabulary is not our tokenizer's.
    """
    vocabulary, width = required(state, "token_embedding.weight", source).shape
    if vocabulary != VOCABULARY:
        raise DataError(
            f"{source}: a text tower of {vocabulary} tokens: the tokenizer here has CLIP's "
            f"{VOCABULARY}, so its ids would mean other words"
        )
    blocks = "transformer.resblocks"
    hidden = required(state, f"{blocks}.0.mlp.c_fc.weight", source).shape[0]
    try:
        return TextTower(
            width=width,
            layers=count_blocks(state, blocks),
            heads=settings.text_heads or max(1, width // 64),
            hidden=hidden,
            context=required(state, "positional_embedding", source).shape[0],
            vocabulary=vocabulary,
            activation=settings.activation or activation,
            norm_eps=norm_eps,
        )
    except ValidationError as error:
        raise DataError(
            f"{source}: not the sizes of a text tower: {first_problem(error)}: give its heads"
        ) from error
