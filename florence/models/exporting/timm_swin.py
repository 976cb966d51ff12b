"""Image towers that are Swins, as a folder that timm loads: ``timm.create_model("local-dir:…")``.

Format: https://huggingface.co/docs/timm/models (a configuration and safetensors). CoSwin's
convolutional embeddings are in no model of timm.
"""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from florence.config.model import Embedding, ImageTower
from florence.errors import ConfigurationError
from florence.models.card import CONTRASTIVE, ModelCard
from florence.models.classifier import CLASSIFICATION, HeadShape, classifier_of
from florence.models.stored import CARD, WEIGHTS, StoredModel, take, two_tower_of
from florence.models.window_resize import TABLE

_SIZES = {
    "tiny": (96, (2, 2, 6, 2), (3, 6, 12, 24), (7,)),
    "small": (96, (2, 2, 18, 2), (3, 6, 12, 24), (7,)),
    "base": (128, (2, 2, 18, 2), (4, 8, 16, 32), (7, 12)),
    "large": (192, (2, 2, 18, 2), (6, 12, 24, 48), (7, 12)),
}
"""timm's Swins of the first version: width, depths, heads, windows."""


def timm_files(stored: StoredModel) -> dict[str, bytes]:
    """The files of the folder by name: weights and timm's configuration.

    The classifier of timm's model is that of a classifier, and the projection of two towers: the
    outputs are logits, or embeddings that are not normalised.

    Raises:
        ConfigurationError: timm has no such model; says what of it.
        DataError: the weights do not fit the card.
    """
    card = stored.card
    if card.task not in (CONTRASTIVE, CLASSIFICATION):
        raise ConfigurationError(
            f"{stored.uri}: --format timm is for two towers and classifiers, and this model is of "
            f"task '{card.task}', whose head timm has not: use --format safetensors"
        )
    weight, bias = _classifier(stored)
    state = swin_state(stored, "--format timm")
    state |= {"head.fc.weight": weight, "head.fc.bias": bias}
    config = _configuration(card, classes=len(bias))
    return {WEIGHTS: save(state, metadata={"format": "pt"}), CARD: config}


def swin_state(stored: StoredModel, form: str) -> dict[str, Tensor]:
    """The image tower under timm's names, without projection and classifier.

    Args:
        stored: a model with two towers, or a classifier.
        form: which format asks, as the message says it.

    Raises:
        ConfigurationError: it is no Swin, or one that timm computes otherwise.
        DataError: the weights do not fit the card.
    """
    card = stored.card
    if card.architecture.image.embedding is not Embedding.SWIN:
        raise ConfigurationError(
            f"{stored.uri}: {form} needs a Swin, and this image tower's embeddings are "
            "convolutions, which no model of timm has: use --format onnx, hf or safetensors, or "
            "train with model.image.embedding: swin"
        )
    sides = _map_sides(card, stored.uri, form)
    model = two_tower_of(stored) if card.task == CONTRASTIVE else classifier_of(stored)
    state = {}
    for name, value in take(model.state_dict(), "image").items():
        if name.endswith(TABLE):
            stage = int(name.split(".")[1])
            value = central_table(value, min(card.window, sides[stage]))
        if name != "projection.weight":
            state[name] = value.contiguous()
    return state


def central_table(table: Tensor, window: int) -> Tensor:
    """The biases that a smaller window needs of a table: ((2M - 1)^2, heads) to (2m - 1)^2 rows."""
    side, wanted = math.isqrt(len(table)), 2 * window - 1
    first = (side - wanted) // 2
    square = table.view(side, side, -1)[first : first + wanted, first : first + wanted]
    return square.reshape(wanted * wanted, -1)


def timm_name(image: ImageTower, window: int) -> str | None:
    """timm's name of a Swin of these sizes, if it has one."""
    for name, (width, depths, heads, windows) in _SIZES.items():
        if (image.width, image.depths, image.heads, image.mlp_ratio) == (width, depths, heads, 4):
            side = {7: 224, 12: 384}.get(window)
            return f"swin_{name}_patch4_window{window}_{side}" if window in windows else None
    return None


def _classifier(stored: StoredModel) -> tuple[Tensor, Tensor]:
    """Weight (C, F) and bias (C,) of the linear layer on the features."""
    card = stored.card
    if card.task == CONTRASTIVE:
        weight = stored.state["image.projection.weight"]
        return weight.contiguous(), torch.zeros(len(weight))
    if HeadShape.of(card, stored.uri).hidden is not None:
        raise ConfigurationError(
            f"{stored.uri}: --format timm needs a linear classifier, and this one has a hidden "
            "layer, which timm's Swin has not: use --format onnx or hf"
        )
    return stored.state["head.fc.weight"], stored.state["head.fc.bias"]


def _map_sides(card: ModelCard, uri: str, form: str) -> list[int]:
    """Tokens along a side of each stage's map.

    timm shifts a map before it pads it and this tower after it, as Swin's release does; so the
    two agree where nothing is padded.
    """
    sides = [card.resolution // (4 << stage) for stage in range(4)]
    if card.resolution % 32 or any(side % min(card.window, side) for side in sides):
        raise ConfigurationError(
            f"{uri}: {form} needs maps that windows tile, since timm pads others in another way: "
            f"images of {card.resolution} pixels have maps of {', '.join(map(str, sides))} tokens "
            f"a side, and windows have {card.window}: train at a multiple of {32 * card.window}"
        )
    return sides


def _configuration(card: ModelCard, *, classes: int) -> bytes:
    image, side = card.architecture.image, card.resolution
    document: dict[str, Any] = {
        "architecture": timm_name(image, card.window) or "swin_tiny_patch4_window7_224",
        "num_classes": classes,
        "num_features": 8 * image.width,
        "global_pool": "avg",
        "model_args": {
            "img_size": side,
            "window_size": card.window,
            "embed_dim": image.width,
            "depths": list(image.depths),
            "num_heads": list(image.heads),
            "mlp_ratio": float(image.mlp_ratio),
        },
        "pretrained_cfg": {
            "input_size": [3, side, side],
            "pool_size": [side // 32, side // 32],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(card.mean),
            "std": list(card.std),
            "num_classes": classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head.fc",
        },
    }
    if card.labels:
        document["label_names"] = list(card.labels)
    return (json.dumps(document, indent=2) + "\n").encode()
