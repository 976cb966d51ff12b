"""UniCL's released Swin models (microsoft/UniCL).

Swin's release names under ``image_encoder.``, CLIP's under ``text_encoder.`` but with the blocks
directly under ``resblocks.``, two projections as matrices, a scalar ``logit_scale``. Older files
have ``visual.``, ``lang_encoder.`` or ``text.``, and ``vision_projection``. The text tower has the
approximate GELU and 1e-12 in its layer norms.
"""

from __future__ import annotations

from torch import Tensor

from florence.config.model import Activation
from florence.errors import DataError
from florence.models.importing.open_clip_text import text_tower
from florence.models.importing.part import Part, without_prefix
from florence.models.importing.settings import ImportSettings
from florence.models.importing.timm_swin import is_swin, read_swin

_IMAGE = ("image_encoder.", "visual.")
_TEXT = ("text_encoder.", "lang_encoder.", "text.")
_IMAGE_PROJECTION = ("image_projection", "vision_projection")


def is_unicl(state: dict[str, Tensor]) -> bool:
    """Whether an image projection stands beside the towers, as only UniCL has it."""
    return any(name in state for name in _IMAGE_PROJECTION)


def read_unicl(state: dict[str, Tensor], settings: ImportSettings, source: str) -> Part:
    """Both towers and the temperature.

    Raises:
        DataError: the image encoder is no Swin, or the text encoder is not CLIP's transformer.
    """
    image_prefix = _first(state, _IMAGE)
    text_prefix = _first(state, _TEXT)
    swin = without_prefix(state, image_prefix)
    if not is_swin(swin):
        raise DataError(f"{source}: UniCL with an image encoder that is no Swin")
    image = read_swin(swin, source)
    ours = dict(image.state)
    unused = [f"{image_prefix}{name}" for name in image.unused]
    for name, value in state.items():
        if name in _IMAGE_PROJECTION:
            ours["image.projection.weight"] = value.t()
        elif name == "text_projection":
            ours["text.text_projection"] = value
        elif name == "logit_scale":
            ours[name] = value.reshape(1)
        elif name.startswith(text_prefix):
            inner = name[len(text_prefix) :]
            blocks = "transformer." if inner.startswith("resblocks.") else ""
            ours[f"text.{blocks}{inner}"] = value
        elif not name.startswith(image_prefix):
            unused.append(name)
    text = text_tower(without_prefix(ours, "text."), settings, source, Activation.QUICK_GELU, 1e-12)
    return Part(image.image, text, ours, tuple(unused))


def _first(state: dict[str, Tensor], prefixes: tuple[str, ...]) -> str:
    return next(
        (prefix for prefix in prefixes if any(name.startswith(prefix) for name in state)),
        prefixes[0],
    )
