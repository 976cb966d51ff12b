"""Parameters, FLOPs and bytes of a contrastive training step over two towers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from florence.config import ActivationCheckpointing, Architecture, ContrastiveLoss, Precision
from florence.planner.activations import (
    FP32,
    INT64,
    image_units,
    numerics,
    peak_bytes,
    text_units,
)
from florence.planner.cost import LossBytes
from florence.planner.sizes import (
    TowerCounts,
    forward_macs,
    parameters,
    recomputed_macs,
    training_flops,
)


class ContrastiveCost(ABC):
    """See :class:`florence.planner.cost.Cost`; both towers are trained whole.

    Settings are of a kind that trains; where its loss is, the kind says.
    """

    @abstractmethod
    def loss(self, settings: Any) -> ContrastiveLoss:
        """The loss among the settings."""

    def parameters(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """Both towers; the total has one more, the temperature."""
        return parameters(architecture, window=settings.window)

    def trained_parameters(self, architecture: Architecture, settings: Any) -> int:
        """All of them."""
        return self.parameters(architecture, settings).total

    def forward_macs(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """Of one image and one text of full length."""
        return forward_macs(architecture, resolution=settings.resolution, window=settings.window)

    def training_flops(self, architecture: Architecture, settings: Any) -> TowerCounts:
        """Three forward passes' worth."""
        return training_flops(architecture, resolution=settings.resolution, window=settings.window)

    def recomputed_macs(self, architecture: Architecture, settings: Any) -> int:
        """By activation checkpointing, and by the gradient cache's second forward pass."""
        repeated = recomputed_macs(
            architecture,
            settings.activation_checkpointing,
            resolution=settings.resolution,
            window=settings.window,
        )
        chunks = settings.gradient_cache_chunks
        # The last chunk's first forward pass is the one that it is differentiated through.
        return repeated + self.forward_macs(architecture, settings).total * (chunks - 1) // chunks

    def activation_bytes(self, architecture: Architecture, settings: Any, *, cuda: bool) -> float:
        """Of both towers: their backward passes do not overlap, their activations do."""
        numbers = numerics(settings.precision, architecture.image.attention, cuda=cuda)
        checkpointing = settings.activation_checkpointing
        image = image_units(
            architecture,
            resolution=settings.resolution,
            window=settings.window,
            checkpointing=checkpointing,
            numbers=numbers,
        )
        text = text_units(
            architecture,
            tokens=architecture.text.context,
            checkpointing=checkpointing,
            numbers=numbers,
        )
        return peak_bytes([*image, *text])

    def cast_bytes(self, architecture: Architecture, settings: Any) -> float:
        """Half-precision weights in the graph; recomputed blocks hold none."""
        if settings.precision is Precision.FP32:
            return 0.0
        counts = parameters(architecture, window=settings.window)
        text = architecture.text
        image = float(counts.image)
        blocks = counts.text - (text.vocabulary + text.context) * text.width
        if settings.activation_checkpointing is ActivationCheckpointing.SELECTIVE:
            ratio = architecture.image.mlp_ratio
            return 2 * image * ratio / (ratio + 2)
        if settings.activation_checkpointing is ActivationCheckpointing.FULL:
            return 0.0
        return 2 * (image + blocks)

    def sample_bytes(self, architecture: Architecture, settings: Any) -> int:
        """A normalised image and its token ids."""
        return 3 * settings.resolution**2 * FP32 + architecture.text.context * INT64

    def loss_bytes(
        self, architecture: Architecture, settings: Any, *, rows: int, processes: int
    ) -> LossBytes:
        """Features of the global batch, and both directions' rows of the logits."""
        return LossBytes(
            features=_feature_bytes(architecture, settings, rows, processes),
            logits=_logit_bytes(settings.batch_size, self.loss(settings).row_chunk, rows),
        )


def _feature_bytes(architecture: Architecture, settings: Any, rows: int, processes: int) -> float:
    pair = 2 * architecture.embed_dim * FP32
    own = rows * pair * (2 if settings.gradient_cache_chunks > 1 else 1)
    if processes == 1:
        return own + settings.batch_size * pair  # the gradient
    # Gathered features, their gradients, and the mean of each label's.
    return own + 3 * settings.batch_size * pair


def _logit_bytes(batch_size: int, row_chunk: int, rows: int) -> float:
    """Both directions' rows by the global batch, and the copies that a softmax works with."""
    row = batch_size * FP32
    if 0 < row_chunk < rows:
        return 3 * row_chunk * row
    return 4 * rows * row
