"""The images of evaluation sets that training must not have seen, as hashes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from florence.config.storage import S3Settings
from florence.curation.measure import Measured, Reason, measure_images, measure_shard
from florence.curation.settings import Curation
from florence.data.builtin import resolve
from florence.data.importing.class_folders import is_image
from florence.data.importing.once import shards_of
from florence.data.locations import list_shards, locate
from florence.data.ordered_map import map_in_processes
from florence.errors import DataError
from florence.storage import Entry, Storage, open_storage

_IMAGES_PER_PART = 1_000
_ANYTHING = Curation(min_side=1, max_aspect=1e9, min_words=0)


@dataclass(frozen=True)
class Part:
    """A piece of an evaluation set that one process hashes: a shard, or some image files."""

    storage: Storage
    entries: tuple[Entry, ...]
    is_shard: bool

    @property
    def label(self) -> str:
        """What progress calls it."""
        return self.storage.url(self.entries[0].key)

    def measure(self) -> Measured:
        """Hash every image; those that cannot be read are BROKEN."""
        if self.is_shard:
            return measure_shard(self.storage, self.entries[0], _ANYTHING)
        return measure_images(self.storage, [entry.key for entry in self.entries])

    def name(self, row: int) -> str:
        """What people call an image of it."""
        return (
            f"{self.label} row {row}" if self.is_shard else self.storage.url(self.entries[row].key)
        )


@dataclass(frozen=True)
class EvaluationHashes:
    """The hashes of all sets together.

    Attributes:
        hashes: uint64 ``(N,)``.
        part, row: int64 ``(N,)``: where each is from.
        parts: what ``part`` counts.
        broken: images that could not be hashed.
    """

    hashes: NDArray[np.uint64]
    part: NDArray[np.int64]
    row: NDArray[np.int64]
    parts: tuple[Part, ...]
    broken: int

    def name(self, number: int) -> str:
        """What people call image ``number``."""
        return self.parts[int(self.part[number])].name(int(self.row[number]))


def open_evaluation_set(uri: str, s3: S3Settings | None, home: Path | None) -> tuple[Part, ...]:
    """Shards, a folder with images anywhere below it, or a file that can be imported.

    Raises:
        DataError: there is no image.
    """
    if not uri.endswith((".tar", "/")) and "." in uri.rpartition("/")[2]:
        uri = shards_of(uri, s3=s3, home=home)  # a table or a JSON, which names its images
    root, only = locate(resolve(uri))
    storage = open_storage(root, s3)
    entries = storage.list(only or "")
    if any(entry.key.endswith(".tar") for entry in entries):
        return tuple(Part(storage, (entry,), True) for entry in list_shards(storage, only))
    images = [entry for entry in entries if is_image(entry.key)]
    if not images:
        raise DataError(f"{uri} holds neither shards (*.tar) nor images: check the URI")
    return tuple(
        Part(storage, tuple(images[start : start + _IMAGES_PER_PART]), False)
        for start in range(0, len(images), _IMAGES_PER_PART)
    )


def identity(parts: Sequence[Part]) -> list[Any]:
    """What identifies evaluation sets without reading them."""
    return [[e.key, e.size, e.modified] for part in parts for e in part.entries]


def hash_evaluation_sets(
    parts: Sequence[Part],
    kept: Storage,
    folder: str,
    processes: int,
    on_part: Callable[[int, str], None],
) -> EvaluationHashes:
    """Hash all parts; each part's hashes are kept under ``folder`` for a run that is killed."""
    hashes, owners, rows, broken = [], [], [], 0
    task = partial(_measured, kept, folder)
    for number, records in enumerate(map_in_processes(task, enumerate(parts), processes)):
        usable = np.flatnonzero(records["reason"] == Reason.KEPT)
        hashes.append(records["phash"][usable])
        owners.append(np.full(len(usable), number, np.int64))
        rows.append(usable)
        broken += len(records) - len(usable)
        on_part(number + 1, parts[number].label)
    if not hashes:
        nothing = np.empty(0, np.int64)
        return EvaluationHashes(np.empty(0, np.uint64), nothing, nothing, (), 0)
    return EvaluationHashes(
        np.concatenate(hashes),
        np.concatenate(owners),
        np.concatenate(rows),
        tuple(parts),
        broken,
    )


def _measured(kept: Storage, folder: str, numbered: tuple[int, Part]) -> NDArray[Any]:
    number, part = numbered
    key = f"{folder}{number:06d}.npy"
    if kept.size(key) is not None:
        return Measured.from_bytes(kept.read(key)).records
    measured = part.measure()
    kept.write(key, measured.to_bytes())
    return measured.records
