"""Clips as training reads them: with a class, or with one of their captions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config import Augmentation
from florence.config.video import ClipSampling
from florence.data.arena import Arena, Stored, room_for
from florence.data.batch import BrokenSample, to_device
from florence.data.captions import CAPTION, CaptionReader, captions_of
from florence.data.classes import MIX, OPERATIONS, ClassBatch
from florence.data.hashing import uniforms
from florence.data.pairs import CROP, Pair, PairBatch
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.transforms import Pixels, normalise
from florence.data.video.files import BrokenClipError
from florence.data.video.pixels import augmented, train_clip
from florence.text.normalisation import hash_key, text_label

SPAN, CUT = 21, 22
"""The purposes of the draws of a span, and of a rectangle to cut out."""


@dataclass(frozen=True, kw_only=True)
class ClipAugmentation:
    """What is done to clips of training beside random crops.

    Attributes:
        operations, magnitude: of RandAugment, alike for all frames; 0 operations for none.
        mixup: alpha of the Beta distribution of a mixture's shares; 0 mixes none.
        cutmix: the same for pasting a rectangle of another clip; with both, either at random.
    """

    operations: int = 0
    magnitude: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ClassedClip:
    """One clip: uint8 pixels (T, 3, R, R), its class, its share of a mixture, and the rectangle
    (top, left, bottom, right) that its partner fills; an empty one where they are blended."""

    pixels: Pixels
    label: int
    share: float
    box: Box


@dataclass(frozen=True)
class _Collated:
    pixels: Stored
    labels: NDArray[np.int64]
    shares: NDArray[np.float32]
    boxes: NDArray[np.int64]


class ClassClipReader:
    """Decodes and augments clips with a class; see :class:`florence.data.stream.SampleReader`.

    Everything drawn for a clip depends on it, the epoch and the seed. Partners in mixtures are half
    of this process's batch away, as those of images are.

    Args:
        resolution: side of the crops.
        sampling: which frames.
        augmentation, extra: how clips are changed.
        numbers: int64, the label of each of the data's classes.
    """

    def __init__(
        self,
        *,
        resolution: int,
        sampling: ClipSampling,
        augmentation: Augmentation,
        extra: ClipAugmentation,
        numbers: NDArray[np.int64],
    ) -> None:
        self.resolution = resolution
        self.sampling = sampling
        self.augmentation = augmentation
        self.extra = extra
        self.numbers = numbers

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return clip_room(rows, self.sampling, self.resolution)

    def read(self, sample: Sample, chance: Draw) -> ClassedClip:
        """See :class:`florence.data.stream.SampleReader`."""
        if sample.class_index is None:
            raise BrokenClipError("the clip has no class: add a .cls with its number")
        clip = read_clip(sample, chance, self.resolution, self.sampling, self.augmentation)
        clip = augmented(
            clip,
            operations=self.extra.operations,
            magnitude=self.extra.magnitude,
            number=chance.number(OPERATIONS),
        )
        share, box = self._mixture(chance)
        return ClassedClip(clip, int(self.numbers[sample.class_index]), share, box)

    def collate(self, items: Sequence[ClassedClip], arena: Arena) -> _Collated:
        """See :class:`florence.data.stream.SampleReader`."""
        return _Collated(
            arena.stack([item.pixels for item in items]),
            np.array([item.label for item in items], np.int64),
            np.array([item.share for item in items], np.float32),
            np.array([item.box for item in items], np.int64),
        )

    def batch(
        self,
        collated: _Collated,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> ClassBatch:
        """See :class:`florence.data.stream.SampleReader`; images are clips (B, 3, T, R, R)."""
        clips = normalised_clips(collated.pixels, arena, device, self.augmentation)
        labels = to_device(torch.from_numpy(collated.labels), device)
        shares = to_device(torch.from_numpy(collated.shares), device)
        partners = labels
        if self.extra.mixup or self.extra.cutmix:
            away = len(labels) // 2
            weights = own_weights(shares, collated.boxes, self.resolution).to(device)
            clips = weights * clips + (1 - weights) * clips.roll(away, dims=0)
            partners = labels.roll(away)
        return ClassBatch(
            keys=keys,
            broken=broken,
            images=clips,
            labels=labels,
            partners=partners,
            shares=shares,
        )

    def _mixture(self, chance: Draw) -> tuple[float, Box]:
        """The clip's own share, and the rectangle that its partner fills."""
        mixup, cutmix = self.extra.mixup, self.extra.cutmix
        if not mixup and not cutmix:
            return 1.0, (0, 0, 0, 0)
        generator = random.Random(chance.number(MIX))
        if cutmix and (not mixup or generator.random() < 0.5):
            return cut(generator.betavariate(cutmix, cutmix), self.resolution, chance.number(CUT))
        return generator.betavariate(mixup, mixup), (0, 0, 0, 0)


class CaptionClipReader(CaptionReader):
    """Pairs of a clip and one of its captions, drawn anew in every epoch."""

    def __init__(
        self,
        *,
        sampling: ClipSampling,
        by_clip: bool,
        captions_per_clip: int,
        resolution: int,
        augmentation: Augmentation,
        context: int,
    ) -> None:
        super().__init__(
            by_image=by_clip,
            captions_per_image=captions_per_clip,
            resolution=resolution,
            augmentation=augmentation,
            context=context,
        )
        self.sampling = sampling

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return clip_room(rows, self.sampling, self.resolution)

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        captions = captions_of(sample)[: self.captions_per_image]
        text = captions[chance.number(CAPTION) % len(captions)]
        if not text:
            raise BrokenClipError("the clip has no caption: add a .txt")
        clip = read_clip(sample, chance, self.resolution, self.sampling, self.augmentation)
        # A stored clip's key is its own, so the clip's captions share a label and no others do.
        return Pair(clip, text, hash_key(chance.key) if self.by_image else text_label(text))

    def batch(
        self,
        collated: object,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> PairBatch:
        """See :class:`florence.data.stream.SampleReader`; images are clips (B, 3, T, R, R)."""
        batch = super().batch(collated, arena, device, keys, broken)  # type: ignore[arg-type]
        return replace(batch, images=batch.images.transpose(1, 2))


def read_clip(
    sample: Sample,
    chance: Draw,
    resolution: int,
    sampling: ClipSampling,
    augmentation: Augmentation,
) -> Pixels:
    """A random clip of a stored video: uint8 (T, 3, R, R)."""
    return train_clip(
        sample.media_bytes,
        resolution,
        sampling,
        augmentation,
        span=chance.number(SPAN),
        crop=chance.number(CROP),
    )


def clip_room(rows: int, sampling: ClipSampling, resolution: int) -> int:
    """Bytes of an arena that holds so many clips."""
    return room_for(math.prod((rows, sampling.frames, 3, resolution, resolution)))


def normalised_clips(
    stored: Stored, arena: Arena, device: torch.device, augmentation: Augmentation
) -> torch.Tensor:
    """Stored clips (B, T, 3, R, R) as a tower takes them: float32 (B, 3, T, R, R)."""
    pixels = to_device(torch.from_numpy(arena.array(stored)), device)
    return normalise(pixels, augmentation.mean, augmentation.std).transpose(1, 2)


def cut(share: float, resolution: int, number: int) -> tuple[float, Box]:
    """A rectangle of about ``1 - share`` of a square, and the share that is really left.

    Its centre is drawn and what lies outside is cut off (CutMix, arXiv 1905.04899).
    """
    draw = uniforms(number)
    half = math.sqrt(1 - share) * resolution / 2
    y, x = next(draw) * resolution, next(draw) * resolution
    edges = (y - half, x - half, y + half, x + half)
    top, left, bottom, right = (min(resolution, max(0, round(edge))) for edge in edges)
    left_over = 1 - (bottom - top) * (right - left) / resolution**2
    return left_over, (top, left, bottom, right)


def own_weights(shares: torch.Tensor, boxes: NDArray[np.int64], resolution: int) -> torch.Tensor:
    """Each pixel's share of a clip itself in a mixture: (B, 1, 1, R, R)."""
    weights = shares.cpu()[:, None, None, None, None].repeat(1, 1, 1, resolution, resolution)
    for row, (top, left, bottom, right) in enumerate(boxes.tolist()):
        if bottom > top and right > left:
            weights[row] = 1
            weights[row, :, :, top:bottom, left:right] = 0
    return weights
