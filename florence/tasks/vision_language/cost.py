"""Parameters, FLOPs and bytes of a step that fuses image and text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from florence.config import ActivationCheckpointing, Architecture, Precision
from florence.planner.activations import (
    FP32,
    INT64,
    Numerics,
    Unit,
    image_units,
    numerics,
    peak_bytes,
    text_units,
)
from florence.planner.fusion import RobertaSize, Stack
from florence.planner.sizes import (
    TRAINING_FLOPS_PER_MAC,
    TowerCounts,
    forward_macs,
    image_recomputed_macs,
    image_stages,
    parameters,
    recomputed_macs,
)
from florence.tasks.vision_language.settings import (
    FusionSettings,
    TextEncoder,
    VisionLanguageSettings,
)

SettingsT = TypeVar("SettingsT", bound=VisionLanguageSettings)
FORWARD = 2
"""FLOPs of a MAC where there is no backward pass."""


class VisionLanguageCost(ABC, Generic[SettingsT]):
    """See :class:`florence.planner.cost.Cost`.

    Where the settings leave text encoder and fusion to the model that the stage starts from,
    ``roberta-base`` and METER's sizes are assumed.
    """

    causal = False
    text_passes = 1
    """How often a text goes through its encoder in a step."""
    fusion_passes = 1
    """How often a pair goes through the fusion in a step."""

    @abstractmethod
    def head_parameters(self, architecture: Architecture, settings: SettingsT) -> int:
        """Of the head."""

    @abstractmethod
    def head_macs(self, architecture: Architecture, settings: SettingsT) -> int:
        """Of the head, for one sample."""

    @abstractmethod
    def head_bytes(self, architecture: Architecture, settings: SettingsT) -> float:
        """What the head and its loss hold for one sample."""

    def parameters(self, architecture: Architecture, settings: SettingsT) -> TowerCounts:
        """Those of the towers; fusion and head are the ``head``."""
        towers = parameters(architecture, window=settings.window)
        text = towers.text if _is_florence(settings) else RobertaSize().parameters
        head = self._fusion_parameters(architecture, settings)
        head += self.head_parameters(architecture, settings)
        return TowerCounts(
            image=towers.image, text=text, head=head, total=towers.image + text + head
        )

    def trained_parameters(self, architecture: Architecture, settings: SettingsT) -> int:
        """All but the towers' projections and frozen towers."""
        counts = self.parameters(architecture, settings)
        image = 0 if settings.frozen_image else counts.image - _projection(architecture)
        text = 0 if settings.frozen_text else counts.text
        if text and _is_florence(settings):
            text -= architecture.text.width * architecture.embed_dim
        return image + text + counts.head

    def forward_macs(self, architecture: Architecture, settings: SettingsT) -> TowerCounts:
        """Of one image with a text of full length."""
        length = settings.text_length
        towers = forward_macs(
            architecture,
            resolution=settings.resolution,
            window=settings.window,
            tokens=length,
        )
        image = towers.image - _projection(architecture)
        text = towers.text - architecture.text.width * architecture.embed_dim
        if not _is_florence(settings):
            text = RobertaSize().stack.macs(length)
        text *= self.text_passes
        head = self.fusion_passes * self._fusion_macs(architecture, settings)
        head += self.head_macs(architecture, settings)
        return TowerCounts(image=image, text=text, head=head, total=image + text + head)

    def training_flops(self, architecture: Architecture, settings: SettingsT) -> TowerCounts:
        """Three forward passes' worth, one of a frozen tower."""
        macs = self.forward_macs(architecture, settings)
        image = macs.image * (FORWARD if settings.frozen_image else TRAINING_FLOPS_PER_MAC)
        text = macs.text * (FORWARD if settings.frozen_text else TRAINING_FLOPS_PER_MAC)
        head = macs.head * TRAINING_FLOPS_PER_MAC
        return TowerCounts(image=image, text=text, head=head, total=image + text + head)

    def recomputed_macs(self, architecture: Architecture, settings: SettingsT) -> int:
        """By activation checkpointing; chunks of the batch repeat nothing."""
        checkpointing = settings.activation_checkpointing
        if checkpointing is ActivationCheckpointing.NONE:
            return 0
        side, window = settings.resolution, settings.window
        image = image_recomputed_macs(architecture, checkpointing, resolution=side, window=window)
        both = recomputed_macs(architecture, checkpointing, resolution=side, window=window)
        text = both - image
        if not _is_florence(settings):
            text = RobertaSize().stack.recomputed_macs(settings.text_length)
        tokens, length = _image_tokens(architecture, settings), settings.text_length
        words, pixels = self._stacks(settings)
        fusion = words.recomputed_macs(length, tokens) + pixels.recomputed_macs(tokens, length)
        return (
            (0 if settings.frozen_image else image)
            + (0 if settings.frozen_text else self.text_passes * text)
            + self.fusion_passes * fusion
        )

    def activation_bytes(
        self, architecture: Architecture, settings: SettingsT, *, cuda: bool
    ) -> float:
        """Of towers, fusion and head; of a frozen tower only the block that is being computed."""
        numbers = numerics(settings.precision, architecture.image.attention, cuda=cuda)
        image = image_units(
            architecture,
            resolution=settings.resolution,
            window=settings.window,
            checkpointing=settings.activation_checkpointing,
            numbers=numbers,
        )
        text = self._text_units(architecture, settings, numbers)
        kept: list[Unit] = []
        transient = 0.0
        for units, frozen in ((image, settings.frozen_image), (text, settings.frozen_text)):
            if frozen:
                transient = max(transient, *(unit.kept for unit in units))
            else:
                kept += units
        kept += self._fusion_units(architecture, settings, numbers)
        kept.append(Unit(kept=self.head_bytes(architecture, settings), working=0.0))
        return max(transient, peak_bytes(kept))

    def cast_bytes(self, architecture: Architecture, settings: SettingsT) -> float:
        """Half-precision weights of matrix products; recomputed layers hold none."""
        if settings.precision is Precision.FP32:
            return 0.0
        if settings.activation_checkpointing is not ActivationCheckpointing.NONE:
            return 2.0 * self.head_parameters(architecture, settings)
        counts = self.parameters(architecture, settings)
        tables = architecture.text.vocabulary * architecture.text.width
        if not _is_florence(settings):
            tables = RobertaSize().embeddings
        return 2.0 * (counts.total - tables)

    def sample_bytes(self, architecture: Architecture, settings: SettingsT) -> int:
        """A normalised image and its token ids."""
        return 3 * settings.resolution**2 * FP32 + settings.text_length * INT64

    def _stacks(self, settings: SettingsT) -> tuple[Stack, Stack]:
        """Of texts and of images."""
        fusion = settings.fusion or FusionSettings()
        sizes = {"width": fusion.width, "heads": fusion.heads, "hidden": fusion.hidden}
        return (
            Stack(layers=fusion.layers, crossing=True, **sizes),
            Stack(layers=fusion.layers - self.causal, crossing=not self.causal, **sizes),
        )

    def _fusion_parameters(self, architecture: Architecture, settings: SettingsT) -> int:
        words, pixels = self._stacks(settings)
        inputs = _text_width(architecture, settings) + 8 * architecture.image.width
        c = words.width
        poolers = 0 if self.causal else 2 * (c * c + c)
        return words.parameters + pixels.parameters + (inputs + 4) * c + poolers

    def _fusion_macs(self, architecture: Architecture, settings: SettingsT) -> int:
        words, pixels = self._stacks(settings)
        tokens, length = _image_tokens(architecture, settings), settings.text_length
        inputs = length * _text_width(architecture, settings)
        inputs += tokens * 8 * architecture.image.width
        poolers = 0 if self.causal else 2 * words.width**2
        return (
            inputs * words.width
            + words.macs(length, tokens)
            + pixels.macs(tokens, length)
            + poolers
        )

    def _text_units(
        self, architecture: Architecture, settings: SettingsT, numbers: Numerics
    ) -> list[Unit]:
        checkpointing, length = settings.activation_checkpointing, settings.text_length
        if _is_florence(settings):
            units = text_units(
                architecture, tokens=length, checkpointing=checkpointing, numbers=numbers
            )
        else:
            stack = RobertaSize().stack
            layer = stack.unit(length, 0, checkpointing, numbers, dropout=settings.dropout > 0)
            table = Unit(kept=length * (2 * INT64 + stack.width * FP32), working=0.0)
            units = [table, *[layer] * stack.layers]
        return units * self.text_passes

    def _fusion_units(
        self, architecture: Architecture, settings: SettingsT, numbers: Numerics
    ) -> list[Unit]:
        checkpointing, dropout = settings.activation_checkpointing, settings.dropout > 0
        tokens, length = _image_tokens(architecture, settings), settings.text_length
        words, pixels = self._stacks(settings)
        word = words.unit(length, tokens, checkpointing, numbers, dropout=dropout)
        pixel = pixels.unit(tokens, length, checkpointing, numbers, dropout=dropout)
        width = numbers.product * (
            length * _text_width(architecture, settings) + tokens * 8 * architecture.image.width
        )
        inputs = Unit(kept=width, working=0.0)
        return [inputs, *[word] * words.layers, *[pixel] * pixels.layers] * self.fusion_passes


def _is_florence(settings: VisionLanguageSettings) -> bool:
    return settings.text_encoder is TextEncoder.FLORENCE


def _text_width(architecture: Architecture, settings: VisionLanguageSettings) -> int:
    return architecture.text.width if _is_florence(settings) else RobertaSize().stack.width


def _image_tokens(architecture: Architecture, settings: VisionLanguageSettings) -> int:
    return image_stages(architecture.image, settings.resolution, settings.window)[-1].tokens


def _projection(architecture: Architecture) -> int:
    return 8 * architecture.image.width * architecture.embed_dim
