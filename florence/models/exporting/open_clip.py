"""A two-tower model as a folder that open_clip loads: ``create_model("local-dir:…")``.

Format: https://github.com/mlfoundations/open_clip (``open_clip_config.json`` and safetensors).
open_clip takes image towers of timm by their names only.
"""

from __future__ import annotations

import json

from safetensors.torch import save
from torch import Tensor

from florence.config.model import Activation
from florence.errors import ConfigurationError
from florence.models.card import ModelCard
from florence.models.exporting.encoders import encoders_of
from florence.models.exporting.timm_swin import swin_state, timm_name
from florence.models.stored import StoredModel

CONFIG = "open_clip_config.json"
OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"


def open_clip_files(stored: StoredModel) -> dict[str, bytes]:
    """The files of the folder by name: weights and open_clip's configuration.

    Raises:
        ConfigurationError: open_clip has no such model; says what of it.
        DataError: the weights do not fit the card.
    """
    card = stored.card
    model = encoders_of(stored, "--format open-clip is for", "outputs open_clip has not")
    trunk = swin_state(stored, "--format open-clip")
    name = _trunk(card, stored.uri)
    state: dict[str, Tensor] = {f"visual.trunk.{key}": value for key, value in trunk.items()}
    state["visual.head.proj.weight"] = model.image.projection.weight.detach()
    state |= model.text.state_dict()
    state["logit_scale"] = model.logit_scale.detach().reshape(())
    weights = {key: value.contiguous() for key, value in state.items()}
    return {
        OPEN_CLIP_WEIGHTS: save(weights, metadata={"format": "pt"}),
        CONFIG: _configuration(card, name),
    }


def _trunk(card: ModelCard, uri: str) -> str:
    """timm's name of the image tower at the card's resolution."""
    image = card.architecture.image
    name = timm_name(image, card.window)
    if name is None:
        raise ConfigurationError(
            f"{uri}: --format open-clip takes timm's Swins by name, and none has width "
            f"{image.width}, depths {image.depths}, heads {image.heads} and windows of "
            f"{card.window}: use --format hf or onnx, or the sizes of coswin-t, -s, -b or -l"
        )
    side = int(name.rpartition("_")[2])
    if card.resolution != side:
        raise ConfigurationError(
            f"{uri}: --format open-clip makes timm's {name} for images of {side} pixels, and this "
            f"model was trained at {card.resolution}: use --format hf or onnx"
        )
    return name


def _ratio(hidden: int, width: int) -> float:
    """What open_clip multiplies the width by, and cuts to a whole number, to get ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _configuration(card: ModelCard, trunk: str) -> bytes:
    text = card.architecture.text
    document = {
        "model_cfg": {
            "embed_dim": card.architecture.embed_dim,
            # Of the text tower alone: timm's activations are its own.
            "quick_gelu": text.activation is Activation.QUICK_GELU,
            "vision_cfg": {
                "timm_model_name": trunk,
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": card.resolution,
            },
            "text_cfg": {
                "context_length": text.context,
                "vocab_size": text.vocabulary,
                "width": text.width,
                "heads": text.heads,
                "layers": text.layers,
                "mlp_ratio": _ratio(text.hidden, text.width),
                "norm_kwargs": {"eps": text.norm_eps},
            },
        },
        "preprocess_cfg": {
            "mean": list(card.mean),
            "std": list(card.std),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    return (json.dumps(document, indent=2) + "\n").encode()
