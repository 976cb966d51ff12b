"""Saving while training goes on, by a protocol that never shows a half-written checkpoint."""

from __future__ import annotations

import logging
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

import florence
from florence.checkpoint.exchange import Exchange, from_every_rank, from_rank_zero, unexpected
from florence.checkpoint.fragment import Fragment, coverage_fault
from florence.checkpoint.lineage import (
    check_sizes,
    read_commit,
    read_manifest,
    refuse_if_superseded,
)
from florence.checkpoint.manifest import (
    MANIFEST,
    Commit,
    FileDigest,
    Manifest,
    Run,
    TensorEntry,
    attempt_key,
    json_values,
    new_prefix,
)
from florence.checkpoint.reader import RANK_STATE, begin_attempt
from florence.checkpoint.retention import retain
from florence.checkpoint.shard import SHARD_BYTES, dtype_name, encode, packed
from florence.errors import DataError, FlorenceError, TransientError
from florence.storage import Storage

_log = logging.getLogger(__name__)


class Rank(Protocol):
    """Which process of the gang this is."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class Placed:
    """Where one fragment was stored."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    run: Run


@dataclass(frozen=True)
class Report:
    """What one rank uploaded."""

    files: dict[str, FileDigest]
    placed: list[Placed]


class CheckpointWriter:
    """Saves checkpoints of one attempt; one writer per rank, used by all ranks alike.

    A save: every rank uploads its shards under a prefix that is never used twice and reports sizes
    and digests; rank 0 checks that they are there and hold each element exactly once, stores the
    manifest, then the commit. Whoever dies before the commit leaves data that no reader looks at.
    Afterwards rank 0 deletes all but the ``keep`` newest commits and those of the step ``spare``.
    ``clock`` gives unix seconds.
    """

    spare: int | None = None

    def __init__(
        self,
        storage: Storage,
        *,
        attempt: int,
        world: Rank,
        exchange: Exchange,
        clock: Callable[[], float] = time.time,
        keep: int = 3,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self._storage = storage
        self._attempt = attempt
        self._world = world
        self._exchange = exchange
        self._clock = clock
        self._keep = keep
        self._shard_bytes = shard_bytes
        self._thread: threading.Thread | None = None
        self._error: FlorenceError | None = None
        self._commit: Commit | None = None

    def save(
        self,
        step: int,
        fragments: Iterable[Fragment],
        rank_state: Mapping[str, Tensor],
        metadata: Mapping[str, Any],
    ) -> None:
        """Copy the tensors and return; the rest happens in the background.

        ``fragments`` are this rank's share of the global state, ``rank_state`` is what only this
        rank needs again, ``metadata`` JSON values that describe the whole (rank 0's are stored). A
        save that still runs is waited for first, and what failed there is raised here, on every
        rank; then nothing is saved. Raises ``ValueError`` for metadata that is not JSON.
        """
        self.wait()
        described = json_values(metadata)
        copies = [_copied(fragment) for fragment in fragments]
        copies += self._rank_fragments(rank_state)
        self._thread = threading.Thread(
            target=self._run, args=(step, copies, described), name=f"save-{step}", daemon=True
        )
        self._thread.start()

    def wait(self) -> Commit | None:
        """Wait for the save in flight. Returns the last commit of this writer, if there is one.

        Raises what made the save fail, once: ``TransientError`` or ``ConfigurationError``.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._commit

    @property
    def in_flight(self) -> bool:
        """Whether a save still runs in the background."""
        return self._thread is not None and self._thread.is_alive()

    def _rank_fragments(self, state: Mapping[str, Tensor]) -> list[Fragment]:
        prefix = f"{RANK_STATE}{self._world.rank}/"
        return [
            Fragment(prefix + name, tuple(values.shape), 0, _on_cpu(values.reshape(-1)))
            for name, values in state.items()
        ]

    def _run(self, step: int, fragments: list[Fragment], metadata: dict[str, Any]) -> None:
        try:
            self._commit = self._save(step, fragments, metadata)
        except FlorenceError as error:
            self._error = error
        except BaseException as error:  # whatever it is, the training thread has to hear of it
            self._error = unexpected(self._task(step), error)

    def _save(self, step: int, fragments: list[Fragment], metadata: dict[str, Any]) -> Commit:
        exchange, task = self._exchange, self._task(step)
        prefix = from_rank_zero(exchange, task, lambda: self._begin(step))
        reports = from_every_rank(exchange, task, lambda: self._upload(prefix, fragments))
        commit = from_rank_zero(
            exchange, task, lambda: self._finish(step, prefix, reports or [], metadata)
        )
        if exchange.rank == 0:
            self._clean()
        return commit

    def _task(self, step: int) -> str:
        return f"{self._storage.uri}: the checkpoint of step {step}"

    def _begin(self, step: int) -> str:
        """The prefix of a new save. The attempt is recorded first, if nobody did that yet."""
        if self._storage.size(attempt_key(self._attempt)) is None:
            begin_attempt(self._storage, attempt=self._attempt, digests=False, clock=self._clock)
        refuse_if_superseded(self._storage, self._attempt)
        return new_prefix(step, self._attempt)

    def _upload(self, prefix: str, fragments: list[Fragment]) -> Report:
        report = Report({}, [])
        for number, group in enumerate(packed(fragments, self._shard_bytes)):
            name = f"rank-{self._world.rank:05d}-{number:03d}.safetensors"
            body, placed = encode(name, group)
            self._storage.write(f"{prefix}/{name}", body)
            report.files[name] = FileDigest.of(body)
            report.placed.extend(
                Placed(f.name, f.shape, dtype_name(f.values.dtype), run) for f, run in placed
            )
        return report

    def _finish(
        self, step: int, prefix: str, reports: list[Report], metadata: dict[str, Any]
    ) -> Commit:
        """Rank 0's part: check, store the manifest, check for a successor, commit."""
        manifest = Manifest(
            step=step,
            attempt=self._attempt,
            world_size=self._world.size,
            written=self._clock(),
            versions=_versions(),
            files={name: digest for report in reports for name, digest in report.files.items()},
            tensors=assembled([placed for report in reports for placed in report.placed]),
            metadata=metadata,
        )
        try:
            check_sizes(self._storage, prefix, manifest)
        except DataError as error:
            raise TransientError(f"the checkpoint of step {step} is incomplete: {error}") from None
        body = manifest.to_bytes()
        self._storage.write(f"{prefix}/{MANIFEST}", body)
        refuse_if_superseded(self._storage, self._attempt)
        commit = Commit(
            step=step,
            attempt=self._attempt,
            prefix=prefix,
            manifest_sha256=FileDigest.of(body).sha256,
        )
        return self._committed(commit)

    def _committed(self, commit: Commit) -> Commit:
        """Store the commit, or return the one that an earlier save of this step left whole."""
        if self._storage.write_new(commit.id.key, commit.to_bytes()):
            return commit
        try:
            earlier = read_commit(self._storage, commit.id)
            check_sizes(self._storage, earlier.prefix, read_manifest(self._storage, earlier))
        except DataError:
            self._storage.write(commit.id.key, commit.to_bytes())
            return commit
        return earlier

    def _clean(self) -> None:
        try:
            retain(
                self._storage,
                attempt=self._attempt,
                keep=self._keep,
                now=self._clock(),
                spare=self.spare,
            )
        except Exception as error:  # the save itself succeeded, and the next one cleans again
            _log.warning("deleting old checkpoints failed: %s", error)


def assembled(placed: Iterable[Placed]) -> dict[str, TensorEntry]:
    """The tensor table of a manifest. Raises ``FlorenceError`` unless each tensor is whole."""
    parts: dict[str, list[Placed]] = defaultdict(list)
    for part in placed:
        parts[part.name].append(part)
    table = {}
    for name in sorted(parts):
        of_tensor = parts[name]
        kinds = {(part.shape, part.dtype) for part in of_tensor}
        if len(kinds) > 1:
            raise FlorenceError(f"ranks saved '{name}' with different shapes or types: {kinds}")
        ((shape, dtype),) = kinds
        runs = sorted((part.run for part in of_tensor), key=lambda run: run.offset)
        fault = coverage_fault(shape, [(run.offset, run.elements) for run in runs])
        if fault:
            raise FlorenceError(f"the saved fragments of '{name}' do not make a whole: {fault}")
        table[name] = TensorEntry(shape=list(shape), dtype=dtype, runs=runs)
    return table


def _copied(fragment: Fragment) -> Fragment:
    if fragment.name.startswith(RANK_STATE):
        raise ValueError(f"{fragment.name}: names under '{RANK_STATE}' are for the state of ranks")
    return Fragment(fragment.name, fragment.shape, fragment.offset, _on_cpu(fragment.values))


def _on_cpu(values: Tensor) -> Tensor:
    """A copy that training's next step cannot touch."""
    return values.detach().to("cpu", copy=True).contiguous()


def _versions() -> dict[str, str]:
    return {
        "florence": florence.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }
