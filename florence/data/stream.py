"""The stream of training batches: decoded in worker processes, the same for any number of them.

Global step ``s`` trains on the samples at positions ``s * batch_size …`` of the order
(:mod:`florence.data.order`), sorted by where they are stored; what is drawn for a sample (its crop,
its template) depends on that sample, the epoch and the seed. Rank ``r`` of ``W`` takes rows
``r * b … (r + 1) * b`` with ``b = batch_size / W``. Nothing depends on the number of ranks or
workers, or on where a run began: a resume is the step.

The sorting is what lets a rank of hundreds read few, long runs: unsorted, its rows would be spread
over the whole window, each in another shard.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from florence.config import Loader
from florence.data.arena import Arena
from florence.data.batch import Batch, BrokenSample
from florence.data.hashing import mix
from florence.data.images import BrokenImageError
from florence.data.left_out import check_whole
from florence.data.mixture import MixedOrder, Mixture
from florence.data.order import Order
from florence.data.readahead import ReadAhead
from florence.data.shards import BrokenSampleError, Sample, ShardSet
from florence.data.workers import Buffer, WorkerPool
from florence.errors import DataError
from florence.text.normalisation import hash_key

_LOG = logging.getLogger(__name__)
SPARES = 100

ItemT = TypeVar("ItemT")
BatchT = TypeVar("BatchT", bound=Batch)
BatchT_co = TypeVar("BatchT_co", bound=Batch, covariant=True)


@dataclass(frozen=True)
class Draw:
    """What decides everything random about one sample in one epoch."""

    seed: int
    epoch: int
    key: str

    def number(self, purpose: int) -> int:
        """64 random bits; different purposes are independent of each other."""
        return mix(self.seed, purpose, self.epoch, hash_key(self.key))


class SampleReader(Protocol[ItemT, BatchT_co]):
    """What a kind of stage makes of samples; forked into every worker."""

    def bulk_bytes(self, rows: int) -> int:
        """Bytes that the arrays of a batch take; what takes more is handed over slower."""

    def read(self, sample: Sample, draw: Draw) -> ItemT:
        """One sample, decoded and augmented, in a worker.

        Raises:
            BrokenImageError, BrokenSampleError: it cannot be used; another one replaces it.
        """

    def collate(self, items: Sequence[ItemT], arena: Arena) -> Any:
        """The samples of a batch, in a worker: bulk goes to the arena, the rest is pickled."""

    def batch(
        self,
        collated: Any,
        arena: Arena,
        device: torch.device,
        keys: tuple[str, ...],
        broken: tuple[BrokenSample, ...],
    ) -> BatchT_co:
        """The batch on its device, in the training process. Nothing may refer to the arena."""


@dataclass(frozen=True)
class RawBatch:
    """What a worker hands over beside the arena."""

    collated: Any
    used: int
    keys: tuple[str, ...]
    broken: tuple[BrokenSample, ...]


class BatchBuilder(Generic[ItemT, BatchT]):
    """Makes one rank's part of any step. Every worker process has its own copy."""

    def __init__(
        self,
        stream: ShardStream[ItemT, BatchT],
        *,
        rank: int,
        world_size: int,
        stop: int,
    ) -> None:
        self.shards = stream.shards
        self.reader = stream.reader
        self.order = stream.order
        self.batch_size = stream.batch_size
        self.rows = stream.batch_size // world_size
        self.first_row = rank * self.rows
        self.stop = stop
        self._cache_bytes = stream.loader.cache_bytes
        self._read_ahead: ReadAhead | None = None

    def rows_of(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """This rank's samples in a step and their positions in the order, sorted by sample."""
        start = step * self.batch_size
        samples = self.order.samples(start, start + self.batch_size)
        rows = np.argsort(samples, kind="stable")[self.first_row : self.first_row + self.rows]
        return samples[rows], start + rows

    def samples(self, step: int) -> list[int]:
        """This rank's samples in a step; empty behind the last step."""
        return [] if step >= self.stop else self.rows_of(step)[0].tolist()

    @property
    def buffer_size(self) -> int:
        """Bytes of one step's bulk."""
        return self.reader.bulk_bytes(self.rows)

    def make(self, step: int, buffer: Buffer) -> RawBatch:
        """Read and decode one step's rows; bulk goes to the buffer."""
        if self._read_ahead is None:  # here and not in __init__: its threads do not survive a fork
            info = get_worker_info()
            stride = info.num_workers if info else 1
            self._read_ahead = ReadAhead(self.shards, self.samples, stride, self._cache_bytes)
        runs = self._read_ahead.take(step)
        items, keys = [], []
        broken: list[BrokenSample] = []
        for index, position in zip(*(rows.tolist() for rows in self.rows_of(step)), strict=True):
            key, item = self._usable(position, index, runs[index], broken)
            items.append(item)
            keys.append(key)
        arena = Arena(buffer)
        collated = self.reader.collate(items, arena)
        return RawBatch(collated, arena.used, tuple(keys), tuple(broken))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._read_ahead is not None:
            self._read_ahead.close()

    def _usable(
        self, position: int, index: int, run: bytes, broken: list[BrokenSample]
    ) -> tuple[str, ItemT]:
        """The sample at a position, or the first usable one of its spares; notes the broken one."""
        epoch = self.order.epoch(position)
        for attempt in range(1, SPARES + 1):
            try:
                return self._read(index, run, epoch)
            except BrokenSampleError as error:
                if attempt == 1:
                    broken.append(BrokenSample(error.shard, error.key, error.reason))
                last = error
            index = self.order.spare(position, attempt)
            run = self.shards.read_place(self.shards.place(index))
        raise DataError(
            f"{self.shards.uri}: {SPARES} samples in a row are broken, the last is {last}: "
            f"run 'florencectl data check {self.shards.uri}'"
        )

    def _read(self, index: int, run: bytes, epoch: int) -> tuple[str, ItemT]:
        sample = self.shards.parse(index, run)
        try:
            return sample.key, self.reader.read(sample, Draw(self.order.seed, epoch, sample.key))
        except BrokenImageError as error:
            shard, _, key = sample.key.rpartition("/")
            raise BrokenSampleError(f"{shard}.tar", key, str(error)) from error


class ShardStream(Generic[ItemT, BatchT]):
    """The samples of a shard set as batches; see :class:`florence.tasks.task.Stream`.

    Args:
        shards: the samples.
        reader: what a sample becomes.
        seed: decides the order and whatever is drawn for samples.
        batch_size: samples of a step over all ranks.
        loader: how samples are read; ``shuffle_window`` is part of the order.
        device: where batches go.

    Raises:
        DataError: more of the shards are cut off than ``loader.max_bad_fraction``.
    """

    def __init__(
        self,
        shards: ShardSet | Mixture,
        reader: SampleReader[ItemT, BatchT],
        *,
        seed: int,
        batch_size: int,
        loader: Loader,
        device: torch.device | str = "cpu",
    ) -> None:
        self.shards = shards
        self.reader = reader
        self.batch_size = batch_size
        self.loader = loader
        self.device = torch.device(device)
        self.order: Order | MixedOrder
        if isinstance(shards, Mixture):
            self.order = shards.order(seed, loader.shuffle_window)
        else:
            self.order = Order(len(shards), seed, loader.shuffle_window)
        for part in shards.parts if isinstance(shards, Mixture) else (shards,):
            check_whole(part, loader.max_bad_fraction)
        if batch_size > len(shards):
            _LOG.warning(
                "batchSize %d is more than the %d samples of %s: every step sees some of them "
                "more than once",
                batch_size,
                len(shards),
                shards.uri,
            )

    @property
    def uri(self) -> str:
        """Of the data set."""
        return self.shards.uri

    @property
    def fingerprint(self) -> str:
        """A digest of which samples there are."""
        return self.shards.fingerprint

    def __len__(self) -> int:
        return len(self.shards)

    def batches(self, *, rank: int, size: int, start: int, stop: int) -> ShardBatches[BatchT]:
        """One rank's batches of the steps ``[start, stop)``, over as many epochs as that takes.

        A context manager; iterate it once.

        Raises:
            DataError: while iterating: a shard is gone, or nothing but broken samples.
            TransientError: while iterating: storage gave up, or a worker process died.
        """
        builder = BatchBuilder(self, rank=rank, world_size=size, stop=stop)
        return ShardBatches(builder, range(start, stop), self.loader, self.device)


class ShardBatches(Generic[BatchT]):
    """Batches of a stream, decoded ahead in worker processes until closed."""

    def __init__(
        self,
        builder: BatchBuilder[Any, BatchT],
        steps: range,
        loader: Loader,
        device: torch.device,
    ) -> None:
        self._builder = builder
        self._steps = steps
        self._loader = loader
        self._device = device
        self._pool: WorkerPool[RawBatch] | None = None

    def __iter__(self) -> Iterator[BatchT]:
        if self._pool is not None:
            raise RuntimeError("batches of a stream can be iterated once")
        self._pool = WorkerPool(
            self._builder,
            self._steps,
            workers=self._loader.workers,
            prefetch=self._loader.prefetch,
        )
        return self._deliver(self._pool)

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
        self._builder.close()

    def _deliver(self, pool: WorkerPool[RawBatch]) -> Iterator[BatchT]:
        try:
            for raw, buffer in pool:
                arena = Arena(buffer, raw.used)
                yield self._builder.reader.batch(
                    raw.collated, arena, self._device, raw.keys, raw.broken
                )
        finally:
            self.close()
