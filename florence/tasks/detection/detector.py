"""A detector: an image tower, a feature pyramid, a dynamic head and its last layers.

Parameters are ``image.*`` and ``head.*``; one that classifies its boxes with texts also has the
``text.*`` and ``logit_scale`` of the model whose tower it stands on. Shapes: B images, A anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self, cast

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, Architecture
from florence.models.image import CoSwin
from florence.models.meta import on_meta
from florence.models.stored import StoredModel, load_tower
from florence.models.text import TextTransformer
from florence.tasks.detection.dynamic_head import DynamicHead
from florence.tasks.detection.neck import FeaturePyramid
from florence.tasks.detection.predictors import AnchorPredictor, AttributePredictor, Predictions
from florence.tasks.detection.shape import ZERO_SHOT_DETECTION, DetectorShape

MULTIPLE = 32
"""Images are padded to multiples of this many pixels, the stride of the tower's last stage."""
TEMPERATURE = 0.07


class DetectionHead(nn.Module):
    """From the tower's maps to predictions for every anchor."""

    def __init__(self, width: int, shape: DetectorShape, *, recompute: bool = False) -> None:
        super().__init__()
        self.first_stage = shape.first_stage
        widths = [width << stage for stage in range(shape.first_stage, 4)]
        self.neck = FeaturePyramid(widths, shape)
        self.dynamic = DynamicHead(shape, recompute=recompute)
        self.anchors = AnchorPredictor(shape.channels, shape.classes, len(shape.strides))
        if shape.attributes:
            self.attributes = AttributePredictor(8 * width, len(shape.attributes))

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise every part."""
        for part in self.children():
            cast(FeaturePyramid, part).reset_parameters(generator)

    def forward(self, maps: Sequence[Tensor]) -> Predictions:
        """The tower's four maps (B, C_i, H_i, W_i), finest first."""
        return cast(Predictions, self.anchors(self.dynamic(self.neck(maps[self.first_stage :]))))


class Detector(nn.Module):
    """See the module.

    Args:
        architecture: sizes of the towers.
        shape: of the head.
        window: side of the attention windows; the architecture's where None.
        checkpointing: which activations the backward pass recomputes; ``full`` also those of the
            dynamic head's blocks.
        drop_path: highest probability of dropping an image block; the architecture's where None.
        frozen_tower: compute maps without gradients and without dropping blocks.
        texts: whether the text tower and the temperature are there.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: DetectorShape,
        *,
        window: int | None = None,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
        drop_path: float | None = None,
        frozen_tower: bool = False,
        texts: bool = False,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.shape = shape
        self.frozen_tower = frozen_tower
        self.image = CoSwin(
            architecture.image,
            architecture.embed_dim,
            window=window,
            checkpointing=checkpointing,
            drop_path=drop_path,
        )
        self.head = DetectionHead(
            architecture.image.width,
            shape,
            recompute=checkpointing is ActivationCheckpointing.FULL,
        )
        if texts:
            self.text = TextTransformer(architecture.text, architecture.embed_dim)
            self.logit_scale = nn.Parameter(torch.empty(1))
        self.train()

    @property
    def has_texts(self) -> bool:
        """Whether it has a text tower."""
        return hasattr(self, "text")

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise the tower, then everything behind it, drawing from ``generator``."""
        self.image.reset_parameters(generator)
        self.head.reset_parameters(generator)
        if self.has_texts:
            self.text.reset_parameters(generator)
            nn.init.constant_(self.logit_scale, math.log(1 / TEMPERATURE))

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen tower is always in the latter."""
        super().train(mode)
        if self.frozen_tower:
            self.image.eval()
        return self

    def forward(
        self, groups: Sequence[Tensor], regions: Sequence[Sequence[Tensor]] | None = None
    ) -> tuple[Tensor, ...]:
        """Predictions for groups of images, one after the other.

        Args:
            groups: (B, 3, H, W) normalised each, H and W multiples of 32.
            regions: for each group and image the boxes whose attributes are asked for, (R, 4).

        Returns:
            For each group the three tensors of :class:`Predictions`, and with ``regions`` a fourth,
            (R, attributes) logits of all of the group's regions.
        """
        outputs: list[Tensor] = []
        for number, images in enumerate(groups):
            maps = self.maps(images)
            outputs.extend(self.head(maps))
            if regions is not None:
                outputs.append(self.head.attributes(maps[-1], regions[number]))
        return tuple(outputs)

    def maps(self, images: Tensor) -> list[Tensor]:
        """The tower's four maps, without gradients where it is frozen."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_tower):
            return self.image.feature_maps(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) floating point to (B, D) float32 of unit length."""
        return F.normalize(self.image(images).float(), dim=-1)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """(B, L) int64, padded with 0 after the end token, to (B, D) float32 of unit length."""
        return F.normalize(self.text(input_ids).float(), dim=-1)


def build_detector(
    architecture: Architecture,
    shape: DetectorShape,
    *,
    seed: int,
    window: int,
    checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    drop_path: float | None = None,
    frozen_tower: bool = False,
    texts: bool = False,
    init: bool = True,
) -> Detector:
    """A freshly initialised detector on the CPU; a function of its arguments and nothing else.

    Args:
        init: whether parameters get values; not worth its time where others overwrite them.
    """
    with on_meta():
        model = Detector(
            architecture,
            shape,
            window=window,
            checkpointing=checkpointing,
            drop_path=drop_path,
            frozen_tower=frozen_tower,
            texts=texts,
        )
    model.to_empty(device="cpu")
    if init:
        model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def detector_of(stored: StoredModel, *, device: str = "cpu") -> Detector:
    """The detector of a stored model, ready for evaluation, with tensors of its own.

    Raises:
        DataError: the card describes no detector, or the weights do not fit it.
    """
    card = stored.card
    shape = DetectorShape.of(card, stored.uri)
    with on_meta():
        model = Detector(
            card.architecture,
            shape,
            window=card.window,
            texts=card.task == ZERO_SHOT_DETECTION,
        )
    load_tower(model, stored, "")
    return model.to(device).eval()
