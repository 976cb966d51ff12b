"""Writing WebDataset shards: the same samples give the same bytes, in memory for one sample."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from florence.storage import Storage

Members = Mapping[str, bytes]
"""The members of one sample by extension, without the first dot."""


def write_shard(storage: Storage, name: str, samples: Iterable[tuple[str, Members]]) -> None:
    """Write samples, each a key and its members, as one tar; it appears whole or not at all."""
    with ShardFile() as shard:
        for key, members in samples:
            shard.add(key, members)
        shard.store(storage, name)


class ShardFile:
    """One shard in a temporary file: add samples, then store it under its name.

    Headers hold no time, owner or device, so that the bytes depend on the samples alone. Plain
    USTAR where the names allow it; longer or other names get the POSIX extension.
    """

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(suffix=".tar")  # noqa: SIM115
        self._tar = tarfile.open(  # noqa: SIM115
            fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT
        )
        self.samples = 0
        self.size = 0

    def add(self, key: str, members: Members) -> None:
        """Append a sample; ``size`` grows by what it takes in the tar."""
        for extension, data in members.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            info.size = len(data)
            info.mode = 0o644
            self._tar.addfile(info, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]  # else they are all kept
        self.samples += 1
        self.size = self._file.tell()

    def store(self, storage: Storage, name: str) -> None:
        """Finish the tar and write it to a storage."""
        self._tar.close()
        self._file.flush()
        storage.write(name, Path(self._file.name))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def stored_size(members: Members) -> int:
    """The bytes that a sample with short names takes in a tar."""
    block = tarfile.BLOCKSIZE
    return sum(block + -(-len(data) // block) * block for data in members.values())


class ShardWriter:
    """Packs a stream of samples into shards ``<prefix>-000000.tar`` and so on.

    Args:
        storage: where.
        prefix: the start of the shards' names.
        samples: most samples in a shard.
        size: most bytes in a shard; a larger sample has a shard of its own.
        first: the number of the first shard.
        on_shard: called after a shard is stored, with its name and number of samples.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        *,
        samples: int,
        size: int,
        first: int = 0,
        on_shard: Callable[[str, int], None] = lambda name, samples: None,
    ) -> None:
        self._storage, self._prefix = storage, prefix
        self._samples, self._size = samples, size
        self._number = first
        self._on_shard = on_shard
        self._shard: ShardFile | None = None

    def add(self, key: str, members: Members) -> None:
        """Append a sample; a shard that has no room for it is stored first."""
        shard = self._shard
        if shard is not None and (
            shard.samples == self._samples or shard.size + stored_size(members) > self._size
        ):
            self.store()
        if self._shard is None:
            self._shard = ShardFile()
        self._shard.add(key, members)

    def store(self) -> None:
        """Store the shard that is being filled, if there is one."""
        if self._shard is None:
            return
        name = f"{self._prefix}-{self._number:06d}.tar"
        with self._shard as shard:
            shard.store(self._storage, name)
        self._shard = None
        self._number += 1
        self._on_shard(name, shard.samples)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.store()
        elif self._shard is not None:
            self._shard.__exit__()
            self._shard = None
