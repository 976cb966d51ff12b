"""What a fine-tuning step costs: both towers, or the image tower and a head."""

from __future__ import annotations

from importlib import resources

from florence.config import (
    PROMPT_SETS,
    ActivationCheckpointing,
    Architecture,
    ContrastiveLoss,
    Precision,
)
from florence.planner.activations import FP32, INT64, image_units, numerics, peak_bytes
from florence.planner.cost import LossBytes
from florence.planner.sizes import (
    TRAINING_FLOPS_PER_MAC,
    TowerCounts,
    forward_macs,
    image_recomputed_macs,
    parameters,
)
from florence.tasks.contrastive.cost import ContrastiveCost
from florence.tasks.finetune.settings import Finetune, HeadKind, Mode

ASSUMED_CLASSES = 1_000
"""Classes of a head whose number only the data tells: ImageNet's."""


class FinetuneCost(ContrastiveCost[Finetune]):
    """See :class:`florence.planner.cost.Cost`; probes are not planned."""

    def loss(self, settings: Finetune) -> ContrastiveLoss:
        """That of the contrastive modes."""
        return settings.loss

    def parameters(self, architecture: Architecture, settings: Finetune) -> TowerCounts:
        """Those of the model; with a head there is no text tower and no temperature."""
        if settings.mode is not Mode.HEAD:
            return super().parameters(architecture, settings)
        image = parameters(architecture, window=settings.window).image
        head = _head_weights(architecture, settings) + _head_biases(architecture, settings)
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def trained_parameters(self, architecture: Architecture, settings: Finetune) -> int:
        """With a head all but the tower's projection, or the head alone."""
        if settings.mode is not Mode.HEAD:
            return super().trained_parameters(architecture, settings)
        counts = self.parameters(architecture, settings)
        if settings.head.frozen_tower:
            return counts.head
        return counts.total - _projection(architecture)

    def forward_macs(self, architecture: Architecture, settings: Finetune) -> TowerCounts:
        """Of an image, and of a text where there is one."""
        if settings.mode is not Mode.HEAD:
            return super().forward_macs(architecture, settings)
        image = forward_macs(
            architecture, resolution=settings.resolution, window=settings.window
        ).image - _projection(architecture)
        head = _head_weights(architecture, settings)
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def training_flops(self, architecture: Architecture, settings: Finetune) -> TowerCounts:
        """Three forward passes' worth, one of a frozen tower."""
        if settings.mode is not Mode.HEAD:
            return super().training_flops(architecture, settings)
        macs = self.forward_macs(architecture, settings)
        image = macs.image * (2 if settings.head.frozen_tower else TRAINING_FLOPS_PER_MAC)
        head = macs.head * TRAINING_FLOPS_PER_MAC
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def recomputed_macs(self, architecture: Architecture, settings: Finetune) -> int:
        """By activation checkpointing; chunks of a head's batch repeat nothing."""
        if settings.mode is not Mode.HEAD:
            return super().recomputed_macs(architecture, settings)
        if settings.head.frozen_tower:
            return 0
        return image_recomputed_macs(
            architecture,
            settings.activation_checkpointing,
            resolution=settings.resolution,
            window=settings.window,
        )

    def activation_bytes(
        self, architecture: Architecture, settings: Finetune, *, cuda: bool
    ) -> float:
        """Of the towers that are trained; of a frozen one the block that is being computed."""
        if settings.mode is not Mode.HEAD:
            return super().activation_bytes(architecture, settings, cuda=cuda)
        frozen = settings.head.frozen_tower
        units = image_units(
            architecture,
            resolution=settings.resolution,
            window=settings.window,
            checkpointing=(
                ActivationCheckpointing.NONE if frozen else settings.activation_checkpointing
            ),
            numbers=numerics(settings.precision, architecture.image.attention, cuda=cuda),
        )
        head = 2 * FP32 * (_features(architecture) + _hidden(architecture, settings))
        tower = max(unit.kept for unit in units) if frozen else peak_bytes(units)
        return tower + head

    def cast_bytes(self, architecture: Architecture, settings: Finetune) -> float:
        """Half-precision weights in the graph; a frozen tower's live as long as its pass."""
        if settings.mode is not Mode.HEAD:
            return super().cast_bytes(architecture, settings)
        if settings.precision is Precision.FP32:
            return 0.0
        counts = self.parameters(architecture, settings)
        image, head = 2.0 * counts.image, 2.0 * counts.head
        if settings.activation_checkpointing is ActivationCheckpointing.SELECTIVE:
            ratio = architecture.image.mlp_ratio
            image *= ratio / (ratio + 2)
        elif settings.activation_checkpointing is ActivationCheckpointing.FULL:
            image = 0.0
        return image + head

    def sample_bytes(self, architecture: Architecture, settings: Finetune) -> int:
        """A normalised image, with its token ids or its class."""
        if settings.mode is not Mode.HEAD:
            return super().sample_bytes(architecture, settings)
        return 3 * settings.resolution**2 * FP32 + INT64

    def loss_bytes(
        self, architecture: Architecture, settings: Finetune, *, rows: int, processes: int
    ) -> LossBytes:
        """Of a head: the scores of a chunk, their logarithms and the gradient."""
        if settings.mode is not Mode.HEAD:
            return super().loss_bytes(architecture, settings, rows=rows, processes=processes)
        chunk = -(-rows // settings.gradient_cache_chunks)
        return LossBytes(logits=3.0 * chunk * classes_of(settings) * FP32)


def classes_of(settings: Finetune) -> int:
    """Outputs of the head: those of a built-in set of prompts, else :data:`ASSUMED_CLASSES`."""
    if settings.prompts not in PROMPT_SETS:
        return ASSUMED_CLASSES
    folder = resources.files("florence.evaluation") / "prompt_sets"
    import yaml  # seldom needed, and slow to import: the command line starts without it

    document = yaml.safe_load((folder / f"{settings.prompts}.yaml").read_text("utf-8"))
    return len(document["classes"])


def _features(architecture: Architecture) -> int:
    return 8 * architecture.image.width


def _projection(architecture: Architecture) -> int:
    return _features(architecture) * architecture.embed_dim


def _hidden(architecture: Architecture, settings: Finetune) -> int:
    """Width of the MLP's hidden layer; 0 where there is none."""
    if settings.head.kind is HeadKind.LINEAR:
        return 0
    return settings.head.hidden or _features(architecture)


def _head_weights(architecture: Architecture, settings: Finetune) -> int:
    features, classes = _features(architecture), classes_of(settings)
    hidden = _hidden(architecture, settings)
    return hidden * (features + classes) if hidden else features * classes


def _head_biases(architecture: Architecture, settings: Finetune) -> int:
    return _hidden(architecture, settings) + classes_of(settings)
