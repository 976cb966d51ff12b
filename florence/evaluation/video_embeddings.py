"""Embeddings of videos for comparison with texts: the mean of frames, or one pass of a tower."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from florence.config.evaluations import Pooling, VideoEmbedding
from florence.config.video import VideoTower, Views
from florence.errors import ConfigurationError
from florence.evaluation.clips import FrameLooks, Looks, StoredClips, ViewLooks, over_clips
from florence.evaluation.context import EvaluationContext
from florence.evaluation.models import ImageTextEncoder
from florence.models.stored import StoredModel
from florence.models.video_models import sampling_of, video_of, video_towers_of


def text_encoder(context: EvaluationContext, where: str) -> ImageTextEncoder:
    """The model as one with a text tower. Raises :class:`ConfigurationError` when it has none."""
    if not isinstance(context.model, ImageTextEncoder):
        raise ConfigurationError(f"{where}: the model has no text tower")
    return context.model


def check_pooling(context: EvaluationContext, settings: VideoEmbedding, where: str) -> None:
    """Refuse to look at single frames with a tower of clips."""
    if settings.pooling is Pooling.FRAMES and video_of(context.card) is not None:
        raise ConfigurationError(f"{where}: the model takes clips: set pooling to clip")


def embeddings_of_clips(
    context: EvaluationContext,
    clips: StoredClips,
    model: ImageTextEncoder,
    settings: VideoEmbedding,
) -> Tensor:
    """(N, D) fp32 of unit length, on every rank.

    A model of images is inflated for pooling ``clip``.
    """
    looks: Looks
    if video_of(context.card) is not None:
        sampling = sampling_of(context.card)
        looks = ViewLooks(sampling, Views(spans=1, crops=1), context.resolution)
    else:
        is_clip = settings.pooling is Pooling.CLIP
        looks = FrameLooks(settings.frames, context.resolution, as_clip=is_clip)
        model = _inflated(context, model) if is_clip else model
    return over_clips(context, clips, looks, model, model.encode_image, mean_direction)


def mean_direction(rows: Tensor) -> Tensor:
    """The mean of rows of unit length (n, D), of unit length again: (D,)."""
    return F.normalize(rows.mean(dim=0), dim=0)


def _inflated(context: EvaluationContext, model: ImageTextEncoder) -> ImageTextEncoder:
    card = context.card
    shape = VideoTower().shape(card.architecture.image, card.window)
    state = {name: value.detach().cpu() for name, value in model.state_dict().items()}  # type: ignore[attr-defined]
    stored = StoredModel("the model", card, state)
    return video_towers_of(stored, context.world.device, shape)
