"""Finding the newest whole checkpoint and reading any cut of it."""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from florence.checkpoint.exchange import (
    Exchange,
    SingleProcess,
    from_every_rank,
    from_rank_zero,
)
from florence.checkpoint.fragment import Slice, read_whole
from florence.checkpoint.lineage import OnSkip, record_attempt, whole_commits
from florence.checkpoint.manifest import Commit, CommitId, Manifest, TensorEntry
from florence.checkpoint.shard import decode, dtype_named
from florence.errors import DataError, TransientError
from florence.storage import MissingKeyError, Storage

RANK_STATE = "rank/"
"""Names under this hold what belongs to one rank only, such as its random number generators."""

OnProgress = Callable[[int, int], None]
"""Told the bytes read so far and in all."""

_CACHED_SHARDS = 4

_log = logging.getLogger(__name__)


class Checkpoint:
    """One committed checkpoint; a :class:`~florence.checkpoint.fragment.TensorReader`.

    Bytes are used only after the SHA-256 of the shard they lie in was found right. The last few
    shards stay in memory, since reads in order of names go through the shards in order.
    """

    def __init__(self, storage: Storage, commit: Commit, manifest: Manifest) -> None:
        self.commit = commit
        self.manifest = manifest
        self._storage = storage
        self._shards: OrderedDict[str, bytearray] = OrderedDict()

    @property
    def step(self) -> int:
        """Optimizer steps done when it was saved."""
        return self.commit.step

    @property
    def attempt(self) -> int:
        """The attempt that wrote it."""
        return self.commit.attempt

    @property
    def id(self) -> CommitId:
        """Step and attempt."""
        return self.commit.id

    @property
    def metadata(self) -> dict[str, Any]:
        """What the trainer saved beside the tensors, as JSON values."""
        return dict(self.manifest.metadata)

    @property
    def uri(self) -> str:
        """Where its files are."""
        return self._storage.url(self.commit.prefix)

    def names(self) -> list[str]:
        """Every tensor of the global state, sorted."""
        return sorted(name for name in self.manifest.tensors if not name.startswith(RANK_STATE))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor. Raises ``DataError`` for a name that is not there."""
        return tuple(self._entry(name).shape)

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Tensor:
        """Elements ``offset`` to ``offset + length`` of the flattened tensor, 1-D on the CPU.

        Raises ``DataError`` for a missing name, a range outside the tensor, or bytes that differ
        from what was written, and ``TransientError`` if the checkpoint was deleted meanwhile.
        """
        entry = self._entry(name)
        elements = math.prod(entry.shape)
        end = elements if length is None else offset + length
        if not 0 <= offset <= end <= elements:
            raise DataError(
                f"{self.uri}: '{name}' has {elements} elements, not those from {offset} to {end}"
            )
        dtype = dtype_named(entry.dtype)
        out = torch.empty(end - offset, dtype=dtype)
        for run in entry.runs:
            first, last = max(offset, run.offset), min(end, run.offset + run.elements)
            if first < last:
                values = decode(self._shard(run.file), run, dtype)
                out[first - offset : last - offset] = values[first - run.offset : last - run.offset]
        return out

    def files(self) -> list[list[Slice]]:
        """What each shard holds of the global state, shards by name, slices by place."""
        slices: dict[str, list[tuple[int, Slice]]] = {
            name: [] for name in sorted(self.manifest.files)
        }
        for name, entry in self.manifest.tensors.items():
            if not name.startswith(RANK_STATE):
                for run in entry.runs:
                    slices[run.file].append((run.begin, Slice(name, run.offset, run.elements)))
        return [[held for _, held in sorted(of_file)] for of_file in slices.values() if of_file]

    def rank_state(self, rank: int) -> dict[str, Tensor] | None:
        """What rank ``rank`` saved for itself, or None if there was no such rank."""
        prefix = f"{RANK_STATE}{rank}/"
        names = [name for name in self.manifest.tensors if name.startswith(prefix)]
        if not names:
            return None
        return {name.removeprefix(prefix): read_whole(self, name) for name in names}

    def check_digests(
        self, part: int = 0, parts: int = 1, on_progress: OnProgress | None = None
    ) -> None:
        """Read every ``parts``-th file from ``part`` on; ``DataError`` if one is not whole.

        ``on_progress`` is told the bytes read and those to read, after every file.
        """
        names = sorted(self.manifest.files)[part::parts]
        total, done = sum(self.manifest.files[name].size for name in names), 0
        for name in names:
            self._verified(name)
            done += self.manifest.files[name].size
            if on_progress:
                on_progress(done, total)

    def _entry(self, name: str) -> TensorEntry:
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise DataError(f"{self.uri} holds no tensor '{name}'") from None

    def _shard(self, name: str) -> bytearray:
        if name in self._shards:
            self._shards.move_to_end(name)
            return self._shards[name]
        try:
            body = bytearray(self._verified(name))
        except MissingKeyError as error:
            raise TransientError(
                f"{error.url} was deleted while it was read: start again"
            ) from None
        self._shards[name] = body
        while len(self._shards) > _CACHED_SHARDS:
            self._shards.popitem(last=False)
        return body

    def _verified(self, name: str) -> bytes:
        key = f"{self.commit.prefix}/{name}"
        body = self._storage.read(key)
        if hashlib.sha256(body).hexdigest() != self.manifest.files[name].sha256:
            raise DataError(f"{self._storage.url(key)} differs from what was committed")
        return body


def newest(
    storage: Storage,
    *,
    attempt_limit: int | None = None,
    step: int | None = None,
    on_skip: OnSkip = _log.warning,
    exchange: Exchange | None = None,
    digests: bool = True,
    on_progress: OnProgress | None = None,
) -> Checkpoint | None:
    """The newest whole checkpoint, or None if there is none: the first by preference that holds.

    Attempts above ``attempt_limit`` are ignored; with ``step``, so are other steps. A commit is
    taken if its manifest's digest, every file's size and, with ``digests``, every file's SHA-256
    are right; the reason for passing over any other goes to ``on_skip`` on rank 0. With an
    ``exchange`` all ranks call this together, share the reading and return the same commit;
    ``on_progress`` is told of this rank's part.
    Raises the storage's ``TransientError`` and ``ConfigurationError``, on all ranks alike.
    """
    exchange = exchange or SingleProcess()
    task = f"{storage.uri}: reading checkpoints"
    candidates = (
        found
        for found in whole_commits(storage, attempt_limit, on_skip)
        if step is None or found[0].step == step
    )
    while True:
        found = from_rank_zero(exchange, task, lambda: next(candidates, None))
        if found is None:
            return None
        checkpoint = Checkpoint(storage, *found)
        fault = _digest_fault(checkpoint, exchange, task, on_progress) if digests else None
        if fault is None:
            return checkpoint
        if exchange.rank == 0:
            on_skip(f"skipped the checkpoint of step {checkpoint.step}: {fault}")


def begin_attempt(
    storage: Storage,
    *,
    attempt: int,
    on_skip: OnSkip = _log.warning,
    exchange: Exchange | None = None,
    digests: bool = True,
    clock: Callable[[], float] = time.time,
    on_progress: OnProgress | None = None,
    wanted: Callable[[Checkpoint], bool] = lambda checkpoint: True,
) -> Checkpoint | None:
    """What attempt ``attempt`` restores, recorded so that no older attempt can overtake it.

    Where the newest checkpoint is not ``wanted`` (all ranks must answer alike) the attempt begins
    from nothing, and readers pass over what was committed before it.

    Call it once, before training starts. From then on commits that older attempts still write are
    passed over, and a writer of an older attempt that looks refuses to commit at all.
    """
    exchange = exchange or SingleProcess()
    checkpoint = newest(
        storage,
        attempt_limit=attempt,
        on_skip=on_skip,
        exchange=exchange,
        digests=digests,
        on_progress=on_progress,
    )
    if checkpoint is not None and not wanted(checkpoint):
        checkpoint = None
    parent = checkpoint.id if checkpoint else None
    from_rank_zero(
        exchange,
        f"{storage.uri}: recording attempt {attempt}",
        lambda: record_attempt(storage, attempt, parent, clock()),
    )
    return checkpoint


def _digest_fault(
    checkpoint: Checkpoint, exchange: Exchange, task: str, on_progress: OnProgress | None
) -> str | None:
    """The first damaged file of a checkpoint whose files are read by all ranks, each its part."""

    def fault() -> str | None:
        try:
            checkpoint.check_digests(exchange.rank, exchange.size, on_progress)
        except DataError as error:
            return str(error)
        return None

    faults = from_every_rank(exchange, task, fault)
    found = next((message for message in faults if message), None) if faults else None
    agreed: str | None = exchange.broadcast(found)
    return agreed
