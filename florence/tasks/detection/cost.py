"""What training a detector costs; imports no torch.

The planner counts with one image of 4:3 whose short side is ``resolution`` and whose long side is
at most what training allows, as a square of the same area. Levels and their cells are those of that
square.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from florence.config import ActivationCheckpointing, Architecture, Embedding, Precision
from florence.planner.activations import FP32, Unit, image_units, numerics, peak_bytes
from florence.planner.cost import LossBytes
from florence.planner.sizes import (
    TRAINING_FLOPS_PER_MAC,
    TowerCounts,
    forward_macs,
    image_recomputed_macs,
    parameters,
)
from florence.tasks.detection.settings import Detection
from florence.tasks.detection.shape import DetectorShape, Normalisation

ASSUMED_CLASSES = 80
"""Classes where only the data tells their number: COCO's."""
ASSUMED_ATTRIBUTES = 524
"""Attributes where a file names them: Visual Genome's."""
TAPS = 9
LANDSCAPE = 4 / 3


@dataclass(frozen=True, slots=True)
class LevelCells:
    """Cells of one level, and how many levels a block looks at there, itself included."""

    cells: int
    looks: int


class DetectionCost:
    """See :class:`florence.planner.cost.Cost`."""

    def parameters(self, architecture: Architecture, settings: Detection) -> TowerCounts:
        """The image tower with its unused projection, the head, and texts where they are kept."""
        towers = parameters(architecture, window=settings.window)
        head = _head_parameters(architecture, settings)
        text = towers.text if settings.class_agnostic else 0
        scale = 1 if settings.class_agnostic else 0
        return TowerCounts(
            image=towers.image, text=text, head=head, total=towers.image + text + head + scale
        )

    def trained_parameters(self, architecture: Architecture, settings: Detection) -> int:
        """The head, and the tower's stages that are not frozen."""
        head = _head_parameters(architecture, settings)
        if settings.frozen_tower:
            return head
        width = 8 * architecture.image.width
        unused = width * architecture.embed_dim + 2 * width
        tower = parameters(architecture, window=settings.window).image - unused
        return head + tower - _frozen_parameters(architecture, settings)

    def forward_macs(self, architecture: Architecture, settings: Detection) -> TowerCounts:
        """Of one image."""
        side = planned_side(settings)
        whole = forward_macs(architecture, resolution=side, window=settings.window).image
        image = whole - 8 * architecture.image.width * architecture.embed_dim
        head = _head_macs(architecture, settings)
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def training_flops(self, architecture: Architecture, settings: Detection) -> TowerCounts:
        """Three forward passes' worth, one of a frozen tower."""
        macs = self.forward_macs(architecture, settings)
        image = macs.image * (2 if settings.frozen_tower else TRAINING_FLOPS_PER_MAC)
        head = macs.head * TRAINING_FLOPS_PER_MAC
        return TowerCounts(image=image, text=0, head=head, total=image + head)

    def recomputed_macs(self, architecture: Architecture, settings: Detection) -> int:
        """By activation checkpointing of the tower's blocks and, if full, of the head's."""
        checkpointing = settings.activation_checkpointing
        total = 0
        if not settings.frozen_tower:
            total += image_recomputed_macs(
                architecture,
                checkpointing,
                resolution=planned_side(settings),
                window=settings.window,
            )
        if checkpointing is ActivationCheckpointing.FULL:
            total += settings.head.blocks * _block_macs(settings)
        return total

    def activation_bytes(
        self, architecture: Architecture, settings: Detection, *, cuda: bool
    ) -> float:
        """Of the tower and the head behind it; of a frozen tower only the block at work."""
        frozen = settings.frozen_tower
        checkpointing = settings.activation_checkpointing
        units = image_units(
            architecture,
            resolution=planned_side(settings),
            window=settings.window,
            checkpointing=ActivationCheckpointing.NONE if frozen else checkpointing,
            numbers=numerics(settings.precision, architecture.image.attention, cuda=cuda),
        )[:-1]
        head = head_units(architecture, settings)
        if frozen:
            return max(max(unit.kept for unit in units), peak_bytes(head))
        return peak_bytes([*units, *head])

    def cast_bytes(self, architecture: Architecture, settings: Detection) -> float:
        """Half-precision weights in the graph; deformable convolutions stay in fp32."""
        if settings.precision is Precision.FP32:
            return 0.0
        head = settings.head
        deformable = head.blocks * 3 * TAPS * head.channels**2
        own = 2.0 * (_head_parameters(architecture, settings) - deformable)
        if settings.frozen_tower or (
            settings.activation_checkpointing is ActivationCheckpointing.FULL
        ):
            return own
        image = 2.0 * parameters(architecture, window=settings.window).image
        if settings.activation_checkpointing is ActivationCheckpointing.SELECTIVE:
            ratio = architecture.image.mlp_ratio
            image *= ratio / (ratio + 2)
        return own + image

    def sample_bytes(self, architecture: Architecture, settings: Detection) -> int:
        """An image as it was decoded, and normalised for the tower."""
        return 3 * planned_side(settings) ** 2 * (1 + FP32)

    def loss_bytes(
        self, architecture: Architecture, settings: Detection, *, rows: int, processes: int
    ) -> LossBytes:
        """What the focal loss of a chunk keeps of its logits, and their gradient."""
        chunk = -(-rows // settings.gradient_cache_chunks)
        anchors = sum(level.cells for level in levels(settings))
        return LossBytes(logits=5.0 * chunk * anchors * classes_of(settings) * FP32)


def classes_of(settings: Detection) -> int:
    """Outputs for each anchor: one of a class-agnostic head, else what the settings expect."""
    if settings.class_agnostic:
        return 1
    return ASSUMED_CLASSES if settings.classes is None else int(settings.classes)


def planned_side(settings: Detection) -> int:
    """Side of the square that stands for an image, a multiple of 32 pixels."""
    short = min(settings.resolution, settings.boxes.max_side)
    long = min(short * LANDSCAPE, settings.boxes.max_side)
    return max(round(math.sqrt(short * long) / 32), 1) * 32


def levels(settings: Detection) -> tuple[LevelCells, ...]:
    """The pyramid's, finest first."""
    shape = _shape(settings)
    side = planned_side(settings)
    sides: list[int] = []
    for stride in shape.strides:
        sides.append(side // stride if stride <= 32 else -(-sides[-1] // 2))
    last = len(sides) - 1
    return tuple(
        LevelCells(side**2, 1 + (number > 0) + (number < last)) for number, side in enumerate(sides)
    )


def head_units(architecture: Architecture, settings: Detection) -> list[Unit]:
    """What pyramid, blocks and last layers keep for the backward pass, in fp32, first to last."""
    head, every = settings.head, levels(settings)
    channels, cells = head.channels, sum(level.cells for level in every)
    shape = _shape(settings)
    fed = [level for level, stride in zip(every, shape.strides, strict=True) if stride <= 32]
    widths = [architecture.image.width << stage for stage in range(shape.first_stage, 4)]
    maps = sum(level.cells * (2 * width + 2) for level, width in zip(fed, widths, strict=True))
    narrow = sum(level.cells for level in fed) * channels
    neck = (maps + narrow + cells * channels) * FP32
    block = Unit(kept=0.0, working=0.0)
    if settings.activation_checkpointing is ActivationCheckpointing.FULL:
        block = Unit(
            kept=cells * channels * FP32,
            working=_block_bytes(settings) + 2 * cells * channels * FP32,
        )
    else:
        block = Unit(kept=_block_bytes(settings), working=4 * every[0].cells * channels * FP32)
    last = Unit(kept=cells * 4 * FP32, working=cells * channels * FP32)
    return [Unit(kept=neck, working=neck / 2), *[block] * head.blocks, last]


def _block_bytes(settings: Detection) -> float:
    """Bytes that a block keeps: its map, where it looks, and of each look what norms and sums need.

    Each level: its output, the mean over looks and both lines of the dynamic ReLU; of a look the
    convolution's output and, where a norm stands between, the norm's; the enlarged coarser level;
    27 numbers of where a cell looks and the 9 masks.
    """
    channels = settings.head.channels
    of_a_look = 1 if settings.head.normalisation is Normalisation.NONE else 2
    every, total = levels(settings), 0.0
    for number, level in enumerate(every):
        maps = 4 + of_a_look * level.looks + (number + 1 < len(every))
        total += level.cells * (maps * channels + 4 * TAPS)
    return total * FP32


def _shape(settings: Detection) -> DetectorShape:
    return settings.shape(classes_of(settings))


def _head_parameters(architecture: Architecture, settings: Detection) -> int:
    head, shape = settings.head, _shape(settings)
    c = head.channels
    widths = [architecture.image.width << stage for stage in range(shape.first_stage, 4)]
    coarser = sum(stride > 32 for stride in shape.strides)
    conv = TAPS * c * c + c
    neck = sum(2 * w + w * c + c + conv for w in widths) + coarser * conv
    norm = 0 if head.normalisation is Normalisation.NONE else 2 * c
    offset = TAPS * c * 3 * TAPS + 3 * TAPS
    hidden = c // 4
    relu = c * hidden + hidden + hidden * 4 * c + 4 * c
    block = offset + 3 * (TAPS * c * c + norm) + c + 1 + relu
    outputs = classes_of(settings) + 5
    last = outputs * (c + 1) + len(shape.strides)
    attributes = 0
    if settings.attributes is not None:
        width = 8 * architecture.image.width
        attributes = 2 * width + (width + 1) * ASSUMED_ATTRIBUTES
    return neck + head.blocks * block + last + attributes


def _frozen_parameters(architecture: Architecture, settings: Detection) -> int:
    """Of the tower's first stages that stay as they are."""
    if not settings.frozen_stages:
        return 0
    image = architecture.image
    # A tower that ends after the frozen stages has theirs, a norm and a projection.
    kept = tuple(
        depth if stage < settings.frozen_stages else 0 for stage, depth in enumerate(image.depths)
    )
    blocks = [
        _block_parameters(architecture, settings.window, stage) * depth
        for stage, depth in enumerate(kept)
    ]
    embeddings = [
        _embedding_parameters(architecture, stage) for stage in range(settings.frozen_stages)
    ]
    return sum(blocks) + sum(embeddings)


def _block_parameters(architecture: Architecture, window: int | None, stage: int) -> int:
    """The difference that one more block of a stage makes."""
    return _parameters_with(architecture, window, stage, 2) - _parameters_with(
        architecture, window, stage, 1
    )


def _parameters_with(architecture: Architecture, window: int | None, stage: int, depth: int) -> int:
    depths = list(architecture.image.depths)
    depths[stage] = depth
    image = architecture.image.model_copy(update={"depths": tuple(depths)})
    return parameters(architecture.model_copy(update={"image": image}), window=window).image


def _embedding_parameters(architecture: Architecture, stage: int) -> int:
    """Of what stands before a stage: a convolution with its norm, or patch merging."""
    image = architecture.image
    channels = image.width << stage
    before = channels // 2 if stage else 3
    if image.embedding is Embedding.SWIN:
        side = 2 if stage else 4
        norm = 2 * 4 * before if stage else 3 * channels
        return side**2 * before * channels + norm
    side = 3 if stage else 7
    return side**2 * before * channels + 3 * channels


def _block_macs(settings: Detection) -> int:
    c = settings.head.channels
    hidden = c // 4
    total = 0
    for level in levels(settings):
        look = TAPS * c * c * level.cells + c
        total += TAPS * c * 3 * TAPS * level.cells + level.looks * look
        total += c * hidden + hidden * 4 * c
    return total


def _head_macs(architecture: Architecture, settings: Detection) -> int:
    head, shape, every = settings.head, _shape(settings), levels(settings)
    c = head.channels
    widths = [architecture.image.width << stage for stage in range(shape.first_stage, 4)]
    neck = 0
    for number, (level, stride) in enumerate(zip(every, shape.strides, strict=True)):
        neck += level.cells * TAPS * c * c
        if stride <= 32:
            neck += level.cells * widths[number] * c
    cells = sum(level.cells for level in every)
    return neck + head.blocks * _block_macs(settings) + cells * c * (classes_of(settings) + 5)
