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
from florence.data.arena import Arena
from florence.data.augmented_clips import AugmentedClips
from florence.data.batch import BrokenSample
from florence.data.captions import CaptionReader
from florence.data.classes import MIX, ClassBatch
from florence.data.hashing import uniforms
from florence.data.image_reader import CollatedImages, Fields, ImageReader
from florence.data.pairs import Pair
from florence.data.shards import Sample
from florence.data.stream import Draw
from florence.data.transforms import Pixels
from florence.data.video.files import BrokenClipError

CUT = 22
"""The purpose of the draw of a rectangle to cut out."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class ClassedClip:
    """One clip: uint8 pixels (T, 3, R, R), its class, its share of a mixture, and the rectangle
    (top, left, bottom, right) that its partner fills; an empty one where they are blended."""

    pixels: Pixels
    label: int
    share: float
    box: Box


@dataclass(frozen=True, kw_only=True)
class ClassClipBatch(ClassBatch):
    """Clips and their classes.

    Attributes:
        images: float32 ``(B, 3, T, R, R)``, normalised.
        boxes: int64 ``(B, 4)``, the rectangle that each clip's partner fills, as in
            :class:`ClassedClip`.
    """

    boxes: torch.Tensor


class ClassClipReader(ImageReader[ClassedClip, ClassClipBatch]):
    """Decodes and augments clips with a class; see :class:`florence.data.stream.SampleReader`.

    Everything drawn for a clip depends on it, the epoch and the seed. Partners in mixtures are half
    of this process's batch away, as those of images are.

    Args:
        clips: how they are cropped and changed.
        numbers: int64, the label of each of the data's classes.
        mixup: alpha of the Beta distribution of a mixture's shares; 0 mixes none.
        cutmix: the same for pasting a rectangle of another clip; with both, either at random.
    """

    batch_type = ClassClipBatch

    def __init__(
        self,
        *,
        clips: AugmentedClips,
        numbers: NDArray[np.int64],
        mixup: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__(clips)
        self.numbers = numbers
        self.mixup = mixup
        self.cutmix = cutmix

    def read(self, sample: Sample, chance: Draw) -> ClassedClip:
        """See :class:`florence.data.stream.SampleReader`."""
        if sample.class_index is None:
            raise BrokenClipError("the clip has no class: add a .cls with its number")
        pixels = self.images.pixels(sample.media_bytes, chance)
        share, box = self._mixture(chance)
        return ClassedClip(pixels, int(self.numbers[sample.class_index]), share, box)

    def fields(self, items: Sequence[ClassedClip]) -> Fields:
        """See :class:`ImageReader`."""
        labels = np.array([item.label for item in items], np.int64)
        return {
            "labels": labels,
            "partners": np.roll(labels, len(labels) // 2) if self._mixes else labels,
            "shares": np.array([item.share for item in items], np.float32),
            "boxes": np.array([item.box for item in items], np.int64),
        }

    def batch(
        self,
        collated: CollatedImages,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> ClassClipBatch:
        """See :class:`florence.data.stream.SampleReader`; clips are mixed on the device."""
        made = super().batch(collated, arena, device, keys, broken)
        if not self._mixes:
            return made
        weights = own_weights(made.shares, made.boxes, self.images.resolution)
        partners = made.images.roll(len(made) // 2, dims=0)
        return replace(made, images=weights * made.images + (1 - weights) * partners)

    @property
    def _mixes(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def _mixture(self, chance: Draw) -> tuple[float, Box]:
        """The clip's own share, and the rectangle that its partner fills."""
        mixup, cutmix, side = self.mixup, self.cutmix, self.images.resolution
        if not mixup and not cutmix:
            return 1.0, (0, 0, 0, 0)
        generator = random.Random(chance.number(MIX))
        if cutmix and (not mixup or generator.random() < 0.5):
            return cut(generator.betavariate(cutmix, cutmix), side, chance.number(CUT))
        return generator.betavariate(mixup, mixup), (0, 0, 0, 0)


class CaptionClipReader(CaptionReader):
    """Pairs of a clip and one of its captions, drawn anew in every epoch.

    Their batches' ``images`` are clips ``(B, 3, T, R, R)``.

    Args:
        by_clip: whether copies of a clip share a label, else equal captions do.
        captions_per_clip: how many of a clip's captions are used, the first ones.
        sampling: which frames are looked at.
        resolution, augmentation, context: those of :class:`PairReader`.
    """

    def __init__(
        self,
        *,
        by_clip: bool,
        captions_per_clip: int,
        sampling: ClipSampling,
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
        self.images = AugmentedClips(
            resolution=resolution, augmentation=augmentation, sampling=sampling
        )

    def read(self, sample: Sample, chance: Draw) -> Pair:
        """See :class:`florence.data.stream.SampleReader`."""
        pair = super().read(sample, chance)
        if not pair.text:
            raise BrokenClipError("the clip has no caption: add a .txt")
        return pair


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


def own_weights(shares: torch.Tensor, boxes: torch.Tensor, resolution: int) -> torch.Tensor:
    """Each pixel's share of a clip itself in a mixture: (B, 1, 1, R, R)."""
    place = torch.arange(resolution, device=boxes.device)
    top, left, bottom, right = boxes.T[:, :, None]
    rows, columns = (top <= place) & (place < bottom), (left <= place) & (place < right)
    inside = rows[:, :, None] & columns[:, None, :]
    is_cut = inside.any(dim=2).any(dim=1)[:, None, None]
    weights = torch.where(is_cut, (~inside).to(shares.dtype), shares[:, None, None])
    return weights[:, None, None]
