"""The stream of training batches: decoded in worker processes, the same for any number of them.

Row ``i`` of global step ``s`` is the sample at position ``s * batch_size + i`` of the order
(:mod:`florence.data.order`); its crop and its template depend on that sample, the epoch and the
seed. Rank ``r`` of ``W`` takes rows ``r * b … (r + 1) * b`` with ``b = batch_size / W``. Nothing
depends on the number of ranks or workers, or on where a run began: a resume is the step.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from florence.config import Pretrain
from florence.data.batch import Batch
from florence.data.hashing import mix
from florence.data.images import BrokenImageError
from florence.data.order import Order
from florence.data.readahead import ReadAhead
from florence.data.shards import BrokenSampleError, Sample, ShardSet
from florence.data.transforms import Pixels, normalise, train_pixels
from florence.data.workers import Buffer, WorkerPool
from florence.errors import ConfigurationError, DataError
from florence.text.identity import hash_key
from florence.text.templates import draw, load_templates, render
from florence.text.tokenizer import CONTEXT, PAD, tokenize_lists

# Token columns behind a batch's longest text are all padding. The text tower is causal and pools at
# the end token, so cutting them changes nothing but time; whole multiples keep the shapes few.
TEXT_LENGTH_MULTIPLE = 8
SPARES = 100
BAD_FRACTION_AFTER = 100
_CROP = 11


@dataclass(frozen=True)
class RawBatch:
    """What a worker hands over beside the pixels; ``broken`` samples were replaced."""

    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    keys: tuple[str, ...]
    broken: tuple[tuple[str, str, str], ...]
    position: int


class BatchMaker:
    """Makes one rank's part of any step. Every worker process has its own copy."""

    def __init__(
        self,
        shards: ShardSet,
        settings: Pretrain,
        *,
        rank: int,
        world_size: int,
        context: int,
        cut_text: bool,
    ) -> None:
        self.shards = shards
        self.settings = settings
        self.templates = load_templates(settings.text.templates)
        self.order = Order(len(shards), settings.seed, settings.loader.shuffle_window)
        self.rows = settings.batch_size // world_size
        self.first_row = rank * self.rows
        self.context = context
        self.cut_text = cut_text
        self._read_ahead: ReadAhead | None = None

    def position(self, step: int) -> int:
        """The global position of this rank's first sample in a step."""
        return step * self.settings.batch_size + self.first_row

    def samples(self, step: int) -> list[int]:
        """This rank's samples in a step; empty behind the last step."""
        if step >= self.settings.steps:
            return []
        start = self.position(step)
        ids: list[int] = self.order.samples(start, start + self.rows).tolist()
        return ids

    @property
    def pixels_shape(self) -> tuple[int, int, int, int]:
        """Of one step's pixels, which are uint8."""
        side = self.settings.resolution
        return self.rows, 3, side, side

    @property
    def buffer_size(self) -> int:
        """Bytes of one step's pixels."""
        return math.prod(self.pixels_shape)

    def make(self, step: int, buffer: Buffer) -> RawBatch:
        """Read, decode, crop and tokenize one step's rows; pixels go to the buffer."""
        if self._read_ahead is None:  # here and not in __init__: its threads do not survive a fork
            info = get_worker_info()
            stride = info.num_workers if info else 1
            self._read_ahead = ReadAhead(
                self.shards, self.samples, stride, self.settings.loader.cache_bytes
            )
        runs = self._read_ahead.take(step)
        position = self.position(step)
        pixels = buffer.reshape(self.pixels_shape)
        texts, labels, keys = [], [], []
        broken: list[BrokenSampleError] = []
        for row, index in enumerate(self.samples(step)):
            sample, pixels[row] = self._usable(position + row, index, runs[index], broken)
            texts.append(self._prompt(sample, self.order.epoch(position + row)))
            labels.append(sample.label_id)
            keys.append(sample.key)
        return RawBatch(
            self._tokens(texts),
            np.array(labels, np.int64),
            tuple(keys),
            tuple((error.shard, error.key, error.reason) for error in broken),
            position,
        )

    def close(self) -> None:
        """Stop reading ahead."""
        if self._read_ahead is not None:
            self._read_ahead.close()

    def _usable(
        self, position: int, index: int, run: bytes, broken: list[BrokenSampleError]
    ) -> tuple[Sample, Pixels]:
        """The sample at a position, or the first usable one of its spares; notes the broken one."""
        epoch = self.order.epoch(position)
        for attempt in range(1, SPARES + 1):
            try:
                return self._decoded(index, run, epoch)
            except BrokenSampleError as error:
                if attempt == 1:
                    broken.append(error)
            index = self.order.spare(position, attempt)
            run = self.shards.read_place(self.shards.place(index))
        raise DataError(
            f"{self.shards.uri}: {SPARES} samples in a row are broken, the first is {broken[-1]}: "
            f"run 'florencectl data check {self.shards.uri}'"
        )

    def _decoded(self, index: int, run: bytes, epoch: int) -> tuple[Sample, Pixels]:
        sample = self.shards.parse(index, run)
        crop = mix(self.settings.seed, _CROP, epoch, hash_key(sample.key))
        try:
            pixels = train_pixels(
                sample.image_bytes, self.settings.resolution, self.settings.augmentation, crop
            )
        except BrokenImageError as error:
            shard, _, key = sample.key.rpartition("/")
            raise BrokenSampleError(f"{shard}.tar", key, str(error)) from error
        return sample, pixels

    def _prompt(self, sample: Sample, epoch: int) -> str:
        if not sample.short:
            return sample.text
        chosen = draw(self.settings.seed, epoch, sample.key, len(self.templates))
        return render(self.templates[chosen], sample.text)

    def _tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        rows = tokenize_lists(texts, self.context)
        length = self.context
        if self.cut_text:
            longest = max(map(len, rows))
            length = min(length, -(-longest // TEXT_LENGTH_MULTIPLE) * TEXT_LENGTH_MULTIPLE)
        ids = np.full((len(rows), length), PAD, np.int64)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids


class BrokenLedger:
    """How many samples were seen and broken, and the stop when too many are."""

    def __init__(self, uri: str, max_fraction: float, after: int) -> None:
        self.uri = uri
        self.max_fraction = max_fraction
        self.after = after
        self.seen = 0
        self.bad = 0
        self._by_shard: Counter[str] = Counter()
        self._example: dict[str, str] = {}

    def add(self, samples: int, broken: Sequence[tuple[str, str, str]]) -> None:
        """Count a batch. Raises :class:`DataError` naming the worst shard above the fraction."""
        self.seen += samples
        self.bad += len(broken)
        for shard, key, reason in broken:
            self._by_shard[shard] += 1
            self._example.setdefault(shard, f"{key}: {reason}")
        if self.seen < self.after or self.bad <= self.max_fraction * self.seen:
            return
        (shard, count), *_ = self._by_shard.most_common(1)
        raise DataError(
            f"{self.uri}: {self.bad} of {self.seen} samples are broken, more than "
            f"loader.maxBadFraction={self.max_fraction:g} allows; worst is shard {shard} "
            f"with {count} ({self._example[shard]}): "
            f"run 'florencectl data check {self.uri}'"
        )


class TrainingLoader:
    """One rank's batches from ``start_step`` to the last step, over as many epochs as that takes.

    Args:
        shards: the samples, opened with the settings' ``text`` and ``exclude_augmented``.
        settings: the stage's settings; seed, batch size, loader, augmentation, text are used.
        rank, world_size: which rows of each global batch.
        start_step: the first step to deliver; 0, or that of a checkpoint.
        context: positions of the text tower.
        device: where batches go; pixels travel as bytes and are normalised there.
        cut_text: leave out token columns that are padding in the whole batch.

    Use it as a context manager, or call :meth:`close`; iterate it once.

    Raises:
        ConfigurationError: the batch does not divide over the ranks, or templates are missing.
        DataError: while iterating: too many broken samples; names the worst shard.
        TryAgainError: while iterating: storage gave up, or a worker process died.
    """

    def __init__(
        self,
        shards: ShardSet,
        settings: Pretrain,
        *,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        context: int = CONTEXT,
        device: torch.device | str = "cpu",
        cut_text: bool = True,
    ) -> None:
        if settings.batch_size % world_size:
            raise ConfigurationError(
                f"batchSize={settings.batch_size} does not divide over {world_size} processes"
            )
        self.settings = settings
        self.start_step = start_step
        self.device = torch.device(device)
        self.maker = BatchMaker(
            shards,
            settings,
            rank=rank,
            world_size=world_size,
            context=context,
            cut_text=cut_text,
        )
        steps = max(0, settings.steps - start_step)
        self.ledger = BrokenLedger(
            shards.uri,
            settings.loader.max_bad_fraction,
            min(BAD_FRACTION_AFTER, steps * self.maker.rows),
        )
        self._pool: WorkerPool[RawBatch] | None = None

    def __len__(self) -> int:
        return max(0, self.settings.steps - self.start_step)

    def __iter__(self) -> Iterator[Batch]:
        if self._pool is not None:
            raise RuntimeError("a TrainingLoader can be iterated once")
        loader = self.settings.loader
        self._pool = WorkerPool(
            self.maker,
            range(self.start_step, self.settings.steps),
            workers=loader.workers,
            prefetch=loader.prefetch,
        )
        return self._batches(self._pool)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        if self._pool is not None:
            self._pool.close()
        self.maker.close()

    def _batches(self, pool: WorkerPool[RawBatch]) -> Iterator[Batch]:
        try:
            for raw, buffer in pool:
                self.ledger.add(len(raw.labels), raw.broken)
                yield self._delivered(raw, buffer)
        finally:
            self.close()

    def _delivered(self, raw: RawBatch, buffer: Buffer) -> Batch:
        augmentation = self.settings.augmentation
        pixels = torch.from_numpy(buffer).view(self.maker.pixels_shape)
        ids, labels = torch.from_numpy(raw.ids), torch.from_numpy(raw.labels)
        if self.device.type == "cuda":
            # Page-locked copies travel while the host goes on; the buffer itself is soon reused.
            pixels, ids, labels = (
                tensor.pin_memory().to(self.device, non_blocking=True)
                for tensor in (pixels, ids, labels)
            )
        images = normalise(pixels, augmentation.mean, augmentation.std)
        return Batch(images, ids, labels, raw.keys, len(raw.broken), raw.position)
