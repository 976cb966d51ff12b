"""What a video step costs: a tower of clips with a classifier, or beside a text tower."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    Architecture,
    ContrastiveLoss,
    Precision,
)
from florence.config.video import VideoShape
from florence.planner.activations import FP32, INT64, numerics, peak_bytes, text_units, tower_units
from florence.planner.cost import LossBytes
from florence.planner.sizes import (
    TRAINING_FLOPS_PER_MAC,
    TowerCounts,
    blocks_recomputed_macs,
    forward_macs,
    image_recomputed_macs,
    parameters,
    recomputed_macs,
)
from florence.planner.video_sizes import VideoStage, video_macs, video_parameters, video_stages
from florence.tasks.contrastive.cost import ContrastiveCost
from florence.tasks.video.settings import Video, VideoMode

ASSUMED_CLASSES = 400
"""Classes of a head, whose number only the data tells: those of Kinetics-400."""


class VideoCost(ContrastiveCost[Video]):
    """See :class:`florence.planner.cost.Cost`; the image tower's part is the tower of clips'."""

    def loss(self, settings: Video) -> ContrastiveLoss:
        """That of mode retrieval."""
        return settings.loss

    def parameters(self, architecture: Architecture, settings: Video) -> TowerCounts:
        """Those of the model: a head takes the text tower's place."""
        image = video_parameters(architecture, _shape(architecture, settings))
        if settings.mode is VideoMode.RETRIEVAL:
            text = parameters(architecture).text
            return TowerCounts(image=image, text=text, total=image + text + 1)
        head = (_features(architecture) + 1) * ASSUMED_CLASSES
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def trained_parameters(self, architecture: Architecture, settings: Video) -> int:
        """With a head all but the tower's projection."""
        total = self.parameters(architecture, settings).total
        if settings.mode is VideoMode.RETRIEVAL:
            return total
        return total - _features(architecture) * architecture.embed_dim

    def forward_macs(self, architecture: Architecture, settings: Video) -> TowerCounts:
        """Of one clip, and one text of full length where there are texts."""
        image = video_macs(
            architecture,
            _shape(architecture, settings),
            frames=settings.clip.frames,
            resolution=settings.resolution,
        )
        if settings.mode is VideoMode.RETRIEVAL:
            text = forward_macs(architecture, resolution=settings.resolution).text
            return TowerCounts(image=image, text=text, total=image + text)
        image -= _features(architecture) * architecture.embed_dim
        head = _features(architecture) * ASSUMED_CLASSES
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def training_flops(self, architecture: Architecture, settings: Video) -> TowerCounts:
        """Three forward passes' worth."""
        macs = self.forward_macs(architecture, settings)
        parts = (macs.image, macs.text, macs.head)
        image, text, head = (TRAINING_FLOPS_PER_MAC * part for part in parts)
        return TowerCounts(image=image, text=text, head=head, total=image + text + head)

    def recomputed_macs(self, architecture: Architecture, settings: Video) -> int:
        """By activation checkpointing, and by the gradient cache of mode retrieval."""
        checkpointing, resolution = settings.activation_checkpointing, settings.resolution
        video = blocks_recomputed_macs(
            _stages(architecture, settings), architecture.image.mlp_ratio, checkpointing
        )
        if settings.mode is VideoMode.ACTIONS:
            return video
        text = recomputed_macs(architecture, checkpointing, resolution=resolution)
        text -= image_recomputed_macs(architecture, checkpointing, resolution=resolution)
        chunks: int = settings.gradient_cache_chunks
        again = self.forward_macs(architecture, settings).total * (chunks - 1) // chunks
        return video + text + again

    def activation_bytes(self, architecture: Architecture, settings: Video, *, cuda: bool) -> float:
        """Of the tower of clips, and of the text tower where there is one."""
        numbers = numerics(settings.precision, architecture.image.attention, cuda=cuda)
        checkpointing = settings.activation_checkpointing
        video = tower_units(
            architecture,
            _stages(architecture, settings),
            values=3 * settings.clip.frames * settings.resolution**2,
            checkpointing=checkpointing,
            numbers=numbers,
        )
        if settings.mode is VideoMode.ACTIONS:
            return peak_bytes(video) + 2 * FP32 * _features(architecture)
        text = text_units(
            architecture,
            tokens=architecture.text.context,
            checkpointing=checkpointing,
            numbers=numbers,
        )
        return peak_bytes([*video, *text])

    def cast_bytes(self, architecture: Architecture, settings: Video) -> float:
        """Half-precision weights in the graph; recomputed blocks hold none."""
        if settings.precision is Precision.FP32:
            return 0.0
        counts, text = self.parameters(architecture, settings), architecture.text
        blocks = max(0, counts.text - (text.vocabulary + text.context) * text.width)
        if settings.activation_checkpointing is ActivationCheckpointing.SELECTIVE:
            ratio = architecture.image.mlp_ratio
            return 2 * counts.image * ratio / (ratio + 2)
        if settings.activation_checkpointing is ActivationCheckpointing.FULL:
            return 0.0
        return 2.0 * (counts.image + blocks + counts.head)

    def sample_bytes(self, architecture: Architecture, settings: Video) -> int:
        """A normalised clip, with its token ids or its class."""
        beside = architecture.text.context if settings.mode is VideoMode.RETRIEVAL else 1
        clip: int = 3 * settings.clip.frames * settings.resolution**2
        return clip * FP32 + beside * INT64

    def loss_bytes(
        self, architecture: Architecture, settings: Video, *, rows: int, processes: int
    ) -> LossBytes:
        """Of a head: the scores of a chunk, their logarithms and the gradient."""
        if settings.mode is VideoMode.RETRIEVAL:
            return super().loss_bytes(architecture, settings, rows=rows, processes=processes)
        chunk = -(-rows // settings.gradient_cache_chunks)
        return LossBytes(logits=3.0 * chunk * ASSUMED_CLASSES * FP32)


def _shape(architecture: Architecture, settings: Video) -> VideoShape:
    return settings.tower.shape(architecture.image, architecture.image.window)


def _stages(architecture: Architecture, settings: Video) -> tuple[VideoStage, ...]:
    return video_stages(
        architecture,
        _shape(architecture, settings),
        frames=settings.clip.frames,
        resolution=settings.resolution,
    )


def _features(architecture: Architecture) -> int:
    return 8 * architecture.image.width
