"""Models of clips: a classifier of actions, and a video tower beside a text tower.

Both are those of images with :class:`florence.models.video_coswin.VideoCoSwin` in the image tower's
place and under its name, ``image``, so that weights pass from one to the other.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import nn

from florence.config import ActivationCheckpointing, Architecture
from florence.config.video import ClipSampling, VideoShape
from florence.errors import DataError
from florence.models.classifier import ClassifierHead, HeadShape, ImageClassifier
from florence.models.image import CoSwin
from florence.models.inflation import inflate, rewindowed
from florence.models.meta import on_meta
from florence.models.stored import ModelCard, StoredModel, load_tower, take
from florence.models.two_tower import TwoTower
from florence.models.video_coswin import VideoCoSwin

log = logging.getLogger(__name__)

ACTIONS = "actionRecognition"
"""The task of a classifier of clips, as its card names it."""
VIDEO_TEXT = "videoText"
"""The task of a video tower beside a text tower."""


def video_of(card: ModelCard) -> VideoShape | None:
    """What a card says of its video tower; None where the model has an image tower."""
    described = (card.head or {}).get("video")
    return None if described is None else VideoShape.model_validate(described)


def sampling_of(card: ModelCard) -> ClipSampling:
    """Which frames a model of clips was trained on."""
    return ClipSampling.model_validate((card.head or {}).get("clip", {}))


def classifier_shape_of(card: ModelCard, uri: str) -> HeadShape:
    """The head of a classifier of clips. Raises :class:`DataError` when the card has none."""
    values = (card.head or {}).get("classifier")
    if not isinstance(values, dict):
        raise DataError(f"{uri}: a model of task '{card.task}' without a classifier of clips")
    return HeadShape(**cast("dict[str, Any]", values))


class VideoTwoTower(TwoTower):
    """A two-tower model whose ``image`` tower takes clips (B, 3, T, H, W)."""

    def __init__(
        self,
        architecture: Architecture,
        shape: VideoShape,
        *,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
        temperature: float = 0.07,
        drop_path: float | None = None,
    ) -> None:
        super().__init__(architecture, checkpointing=checkpointing, temperature=temperature)
        tower = VideoCoSwin(
            architecture.image,
            shape,
            architecture.embed_dim,
            checkpointing=checkpointing,
            drop_path=drop_path,
        )
        self.image = cast(CoSwin, tower)


def build_video_classifier(
    architecture: Architecture,
    shape: VideoShape,
    head: HeadShape,
    *,
    checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    drop_path: float | None = None,
) -> ImageClassifier:
    """A classifier of clips (B, 3, T, H, W) on the meta device: without values yet."""
    with on_meta():
        tower = VideoCoSwin(
            architecture.image,
            shape,
            architecture.embed_dim,
            checkpointing=checkpointing,
            drop_path=drop_path,
        )
        return ImageClassifier(
            cast(CoSwin, tower), ClassifierHead(8 * architecture.image.width, head)
        )


def initialise(model: ImageClassifier | VideoTwoTower, seed: int | None) -> None:
    """Give a model on the meta device memory, and values drawn from a seed unless that is None."""
    model.to_empty(device="cpu")
    if seed is not None:
        model.reset_parameters(torch.Generator().manual_seed(seed))


def load_video_tower(tower: nn.Module, stored: StoredModel) -> None:
    """Give a video tower the weights of a stored model: inflated ones of an image tower's.

    Raises:
        DataError: the model's tower is of other sizes.
    """
    assert isinstance(tower, VideoCoSwin)
    state, source = take(stored.state, "image"), video_of(stored.card)
    if source is None:
        inflated = inflate(state, tower)
        log.info(
            "Inflated %s: %d kernels and %d tables made for time, %d tensors as they were",
            stored.uri,
            len(inflated.kernels),
            len(inflated.tables),
            len(inflated.state) - len(inflated.kernels) - len(inflated.tables),
        )
        state = inflated.state
    else:
        state = rewindowed(state, source, tower)
    load_tower(tower, StoredModel(stored.uri, stored.card, state), "")


def video_classifier_of(stored: StoredModel, device: torch.device) -> ImageClassifier:
    """The classifier of clips that was stored, ready for evaluation."""
    card, shape = stored.card, video_of(stored.card)
    if shape is None:
        raise DataError(f"{stored.uri}: the card describes no video tower")
    head = classifier_shape_of(card, stored.uri)
    model = build_video_classifier(card.architecture, shape, head)
    load_tower(model, stored, "")
    return model.to(device).eval()


def video_towers_of(
    stored: StoredModel, device: torch.device, shape: VideoShape | None = None
) -> VideoTwoTower:
    """The towers that were stored, or a two-tower model of images inflated to ``shape``."""
    card = stored.card
    shape = video_of(card) or shape
    if shape is None:
        raise DataError(f"{stored.uri}: the card describes no video tower")
    with on_meta():
        model = VideoTwoTower(card.architecture, shape)
    model.to_empty(device="cpu")
    load_video_tower(model.image, stored)
    load_tower(model.text, stored, "text")
    model.logit_scale.data.copy_(stored.state["logit_scale"].float())
    return model.to(device).eval()
