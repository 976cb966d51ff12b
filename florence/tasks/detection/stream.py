"""Images with boxes as training and evaluation read them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from florence.config import Loader
from florence.data.arena import Arena, Stored, room_for
from florence.data.batch import BrokenSample, to_device
from florence.data.boxes import AnnotatedImage, annotated_image
from florence.data.hashing import mix, uniforms
from florence.data.images import BrokenImageError, open_image
from florence.data.shards import BrokenSampleError, Sample, ShardSet
from florence.data.stream import Draw, ShardStream
from florence.data.workers import Buffer, WorkerPool
from florence.errors import DataError
from florence.tasks.detection.augment import (
    Scene,
    View,
    copy_paste,
    draw_view,
    fitted_size,
    mixup,
    mosaic,
    viewed,
)
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.batch import DetectionBatch
from florence.tasks.detection.objects import ObjectReader, Objects

VIEW, TOGETHER, PARTNER = 21, 22, 23
"""The purposes of draws, beside those of other readers."""
_PARTNER_ATTEMPTS = 10


@dataclass(frozen=True)
class _Collated:
    pixels: tuple[Stored, ...]
    objects: tuple[Objects, ...]


class DetectionReader:
    """Decodes and augments images with boxes; see :class:`florence.data.stream.SampleReader`.

    What is drawn for an image, other images that are put together with it included, depends on it,
    the epoch and the seed.

    Args:
        objects: what boxes become.
        augmentation: how images are drawn.
        shards: where partners of an image come from; needed for mosaic, mixup and copyPaste only.
    """

    def __init__(
        self,
        objects: ObjectReader,
        augmentation: DetectionAugmentation,
        shards: ShardSet | None = None,
    ) -> None:
        self.objects = objects
        self.augmentation = augmentation
        self.shards = shards

    def bulk_bytes(self, rows: int) -> int:
        """Bytes of the pixels."""
        return rows * room_for(3 * self.augmentation.most_pixels)

    def read(self, sample: Sample, chance: Draw) -> Scene:
        """See :class:`florence.data.stream.SampleReader`."""
        scene = self._scene(sample, chance.number(VIEW))
        draw, chosen = uniforms(chance.number(TOGETHER)), self.augmentation
        together = [next(draw) < p for p in (chosen.mosaic, chosen.mixup, chosen.copy_paste)]
        if together[0]:
            scenes = [scene, *(self._partner(chance, number) for number in range(3))]
            scene = mosaic(scenes, draw, min_visible=chosen.min_visible)
        if together[1]:
            # Beta(1.5, 1.5), by the middle of three: near one half, never one image alone.
            share = sorted(next(draw) for _ in range(3))[1]
            scene = mixup(scene, self._partner(chance, 3), share)
        if together[2]:
            partner = self._partner(chance, 4)
            scene = copy_paste(scene, partner, draw, min_visible=chosen.min_visible)
        return scene

    def collate(self, items: Sequence[Scene], arena: Arena) -> _Collated:
        """See :class:`florence.data.stream.SampleReader`."""
        pixels = tuple(_put(arena, item.pixels) for item in items)
        return _Collated(pixels, tuple(item.objects for item in items))

    def batch(
        self,
        collated: _Collated,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> DetectionBatch:
        """See :class:`florence.data.stream.SampleReader`; pixels travel as bytes."""
        classes = self.objects.class_count
        return DetectionBatch(
            keys=keys,
            broken=broken,
            images=tuple(_image(arena.array(stored), device) for stored in collated.pixels),
            targets=tuple(o.target(classes).to(device) for o in collated.objects),
        )

    def _scene(self, sample: Sample, key: int) -> Scene:
        draw = uniforms(key)
        record = record_of(sample)
        image = open_image(sample.image_bytes)
        view = draw_view(*image.size, self.augmentation, draw)
        objects = self.objects.objects(record)
        return viewed(image, objects, view, min_visible=self.augmentation.min_visible)

    def _partner(self, chance: Draw, number: int) -> Scene:
        """Another image that is put together with a sample; a broken one is passed over."""
        assert self.shards is not None, "images are put together only with the set they are of"
        for attempt in range(_PARTNER_ATTEMPTS):
            key = mix(chance.number(PARTNER), number, attempt)
            try:
                return self._scene(self.shards.read(key % len(self.shards)), mix(key, VIEW))
            except (BrokenSampleError, BrokenImageError) as error:
                last = error
        raise BrokenImageError(f"no other image could be put together with it: {last}")


def detection_stream(
    shards: ShardSet,
    objects: ObjectReader,
    augmentation: DetectionAugmentation,
    *,
    seed: int,
    batch_size: int,
    loader: Loader,
    device: torch.device | str = "cpu",
) -> ShardStream[Scene, DetectionBatch]:
    """Batches of a training set; arguments are those of ``ShardStream`` and ``DetectionReader``."""
    reader = DetectionReader(objects, augmentation, shards)
    return ShardStream(
        shards, reader, seed=seed, batch_size=batch_size, loader=loader, device=device
    )


def record_of(sample: Sample) -> AnnotatedImage:
    """The record of a sample. Raises :class:`BrokenSampleError` when it has none."""
    try:
        return annotated_image(sample.meta)
    except ValueError as error:
        shard, _, key = sample.key.rpartition("/")
        raise BrokenSampleError(f"{shard}.tar", key, str(error)) from error


@dataclass(frozen=True, kw_only=True)
class HeldOutBatch(DetectionBatch):
    """Images as they are measured on, and what is known of each.

    Attributes:
        records: of the images as they are stored: id, size, boxes.
    """

    records: tuple[AnnotatedImage, ...]


@dataclass(frozen=True)
class _HeldOutMaker:
    """Makes batches in worker processes; bulk goes to the buffer."""

    shards: ShardSet
    objects: ObjectReader
    indices: Sequence[int]
    batch_size: int
    short_side: int
    max_side: int
    mirrored: bool

    @property
    def buffer_size(self) -> int:
        return self.batch_size * room_for(3 * self.short_side * self.max_side)

    def make(
        self, number: int, buffer: Buffer
    ) -> tuple[_Collated, int, tuple[str, ...], tuple[AnnotatedImage, ...]]:
        first = number * self.batch_size
        chosen = self.indices[first : first + self.batch_size]
        arena = Arena(buffer)
        pixels, objects, keys, records = [], [], [], []
        for index in chosen:
            sample, record, scene = self._scene(index)
            pixels.append(_put(arena, scene.pixels))
            objects.append(scene.objects)
            keys.append(sample.key)
            records.append(record)
        collated = _Collated(tuple(pixels), tuple(objects))
        return collated, arena.used, tuple(keys), tuple(records)

    def _scene(self, index: int) -> tuple[Sample, AnnotatedImage, Scene]:
        try:
            sample = self.shards.read(index)
            record = record_of(sample)
            image = open_image(sample.image_bytes)
            width, height = image.size
            size = fitted_size(width, height, self.short_side, self.max_side)
            view = View(size, (0.0, 0.0, float(width), float(height)), self.mirrored)
            return (
                sample,
                record,
                viewed(image, self.objects.objects(record), view),
            )
        except BrokenImageError as error:
            raise DataError(f"{self.shards.shard_of(index)}: {error}") from error
        except BrokenSampleError as error:
            raise DataError(f"{self.shards.uri}: {error}") from error


def held_out_batches(
    shards: ShardSet,
    objects: ObjectReader,
    *,
    short_side: int,
    max_side: int,
    batch_size: int,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    mirrored: bool = False,
    indices: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[HeldOutBatch]:
    """A rank's images of a held-out set, each once, in order and without augmentation.

    Rank ``r`` of ``W`` has images ``r, r + W, …``.

    Args:
        short_side, max_side: the size that images are brought to, in pixels.
        batch_size: images of a batch at most.
        workers: processes that decode.
        mirrored: left to right, for test-time augmentation.
        indices: only these of the set, before they are dealt out. Default: all.

    Raises:
        DataError: an image is broken or has no record of boxes; names it.
        TransientError: storage gave up, or a worker process died.
    """
    chosen = (range(len(shards)) if indices is None else indices)[rank::size]
    maker = _HeldOutMaker(
        shards, objects, chosen, batch_size, short_side, max_side, mirrored=mirrored
    )
    pool = WorkerPool(maker, range(math.ceil(len(chosen) / batch_size)), workers=workers)
    where, classes = torch.device(device), objects.class_count
    try:
        for (collated, used, keys, records), buffer in pool:
            arena = Arena(buffer, used)
            yield HeldOutBatch(
                keys=keys,
                images=tuple(_image(arena.array(stored), where) for stored in collated.pixels),
                targets=tuple(o.target(classes).to(where) for o in collated.objects),
                records=records,
            )
    finally:
        pool.close()


def _put(arena: Arena, pixels: NDArray[np.uint8]) -> Stored:
    """Pixels ``(H, W, 3)`` in the arena as they lie: channels are put first where time is not."""
    target, stored = arena.empty(pixels.shape, np.uint8)
    np.copyto(target, pixels)
    return stored


def _image(pixels: NDArray[Any], device: torch.device) -> torch.Tensor:
    """An image ``(H, W, 3)`` on its device, free of the arena, as a view of ``(3, H, W)``."""
    tensor = torch.from_numpy(pixels)
    free = tensor.clone() if device.type == "cpu" else to_device(tensor, device)
    return free.permute(2, 0, 1)
