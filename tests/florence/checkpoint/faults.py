"""Storages that fail on cue, and a training state in which any mixture of two saves shows."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from florence.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    Fragment,
    SingleProcess,
    read_whole,
    share_of,
)
from florence.storage import Body, Entry, MissingKeyError, Storage

Moment = Literal["before", "during", "after"]
Hook = Callable[[str, str, Moment], None]
"""Called with an operation (write, write_new, delete, read, list …), its key, and when."""


class HookedStorage:
    """A storage that calls a hook before and after each operation, and amid a write.

    Amid a write the hook sees what a dying writer leaves: half a temporary file in a folder, an
    unfinished upload on S3.
    """

    def __init__(self, inner: Storage, hook: Hook) -> None:
        self.inner = inner
        self.hook = hook

    @property
    def uri(self) -> str:
        return self.inner.uri

    def url(self, key: str) -> str:
        return self.inner.url(key)

    def read(self, key: str) -> bytes:
        return self._hooked("read", key, lambda: self.inner.read(key))

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self._hooked("read", key, lambda: self.inner.read_range(key, start, length))

    def write(self, key: str, data: Body) -> None:
        self._hooked("write", key, lambda: self._write("write", key, data))

    def write_new(self, key: str, data: Body) -> bool:
        return self._hooked("write_new", key, lambda: self._write("write_new", key, data))

    def size(self, key: str) -> int | None:
        return self._hooked("size", key, lambda: self.inner.size(key))

    def list(self, prefix: str = "") -> list[Entry]:
        return self._hooked("list", prefix, lambda: self.inner.list(prefix))

    def delete(self, key: str) -> None:
        self._hooked("delete", key, lambda: self.inner.delete(key))

    def sweep_unfinished(self, before: float) -> int:
        return self._hooked("sweep", "", lambda: self.inner.sweep_unfinished(before))

    def _hooked(self, operation: str, key: str, act: Callable[[], Any]) -> Any:
        self.hook(operation, key, "before")
        result = act()
        self.hook(operation, key, "after")
        return result

    def _write(self, operation: str, key: str, data: Body) -> Any:
        from florence.storage import folder, s3

        copy = folder._copy

        def half(body: bytes, file: Any) -> None:
            file.write(body[: len(body) // 2])
            file.flush()
            self.hook(operation, key, "during")
            file.write(body[len(body) // 2 :])

        if isinstance(self.inner, s3.S3Storage):
            client, target = self.inner._s3(), self.inner._object(key)
            upload = client.create_multipart_upload(**target)["UploadId"]
            client.upload_part(**target, UploadId=upload, PartNumber=1, Body=bytes(data)[:8])
            self.hook(operation, key, "during")
            client.abort_multipart_upload(**target, UploadId=upload)
        folder._copy = half
        try:
            return getattr(self.inner, operation)(key, data)
        finally:
            folder._copy = copy


class MemoryStorage:
    """Objects in a dictionary; quick enough for thousands of simulated crashes."""

    uri = "memory"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.clock = clock

    def url(self, key: str) -> str:
        return f"memory/{key}"

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise MissingKeyError(self.url(key))
        return self.objects[key][0]

    def read_range(self, key: str, start: int, length: int) -> bytes:
        return self.read(key)[start : start + length]

    def write(self, key: str, data: Body) -> None:
        body = data.read_bytes() if isinstance(data, Path) else bytes(data)
        self.objects[key] = body, self.clock()

    def write_new(self, key: str, data: Body) -> bool:
        if key in self.objects:
            return False
        self.write(key, data)
        return True

    def size(self, key: str) -> int | None:
        return len(self.objects[key][0]) if key in self.objects else None

    def list(self, prefix: str = "") -> list[Entry]:
        return sorted(
            Entry(key, len(body), modified)
            for key, (body, modified) in list(self.objects.items())
            if key.startswith(prefix)
        )

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def sweep_unfinished(self, before: float) -> int:
        return 0


def die() -> None:
    """What the kernel does to a pod that is out of time."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(operation: str, part_of_key: str, moment: Moment) -> Hook:
    """A hook that kills this process at an operation on a key that contains ``part_of_key``."""

    def hook(done: str, key: str, when: Moment) -> None:
        if done == operation and part_of_key in key and when == moment:
            die()

    return hook


def state(step: int, attempt: int) -> dict[str, Tensor]:
    """A state every element of which tells which save it belongs to."""
    mark = 1000.0 * step + attempt
    return {
        "model/weight": torch.full((5, 7), mark) + torch.arange(35.0).view(5, 7) / 64,
        "model/half": torch.full((3, 2), float(step), dtype=torch.bfloat16),
        "model/empty": torch.empty((0, 4)),
        "exp_avg/weight": torch.full((5, 7), -mark),
        "count": torch.tensor(step, dtype=torch.int64),
        "mask": torch.tensor([True, False, bool(step % 2)]),
    }


def rank_state(step: int, rank: int) -> dict[str, Tensor]:
    """What one rank saves for itself."""
    return {
        "torch": torch.full((16,), (step + rank) % 256, dtype=torch.uint8),
        "grid": torch.full((2, 3), rank),
    }


def fragments(step: int, attempt: int, rank: int = 0, size: int = 1) -> list[Fragment]:
    return share_of(state(step, attempt), rank, size)


def writer(storage: Storage, attempt: int, **options: Any) -> CheckpointWriter:
    """A writer of a gang of one whose saves take several small shards."""
    exchange = SingleProcess()
    settings: dict[str, Any] = {"shard_bytes": 96, **options}
    return CheckpointWriter(storage, attempt=attempt, world=exchange, exchange=exchange, **settings)


def save(saver: CheckpointWriter, step: int, attempt: int) -> None:
    """Save and wait, as a gang of one."""
    metadata = {"step": step, "attempt": attempt}
    saver.save(step, fragments(step, attempt), rank_state(step, 0), metadata)
    saver.wait()


def check(checkpoint: Checkpoint, ranks: int = 1) -> tuple[int, int]:
    """Assert that a checkpoint is one whole save; which one."""
    step, attempt = checkpoint.step, checkpoint.attempt
    assert checkpoint.metadata == {"step": step, "attempt": attempt}
    expected = state(step, attempt)
    assert checkpoint.names() == sorted(expected)
    for name, values in expected.items():
        found = read_whole(checkpoint, name)
        assert found.dtype == values.dtype
        assert torch.equal(found, values), name
    for rank in range(ranks):
        own = checkpoint.rank_state(rank)
        assert own is not None
        assert all(torch.equal(own[name], v) for name, v in rank_state(step, rank).items())
    assert checkpoint.rank_state(ranks) is None
    return step, attempt
