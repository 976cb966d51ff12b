"""Records on disk in parts that each fit into memory: the first half of an external sort."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def parts_for(records: int, dtype: np.dtype[Any], memory: int) -> int:
    """How many parts keep each one, with what sorting it takes, below ``memory`` bytes."""
    return max(1, -(-records * dtype.itemsize * 4 // memory))


class Spill:
    """Appends records to the file of their part; a part is read whole or in chunks, in order."""

    def __init__(self, folder: Path, dtype: np.dtype[Any], parts: int) -> None:
        self._folder, self._dtype = folder, dtype
        self.parts = parts
        folder.mkdir(parents=True)

    def add(self, records: NDArray[Any], part: NDArray[Any]) -> None:
        """Append records; ``part`` holds the part of each, 0 to ``parts`` - 1."""
        if self.parts == 1:
            self._append(0, records)
            return
        order = np.argsort(part, kind="stable")
        ends = np.cumsum(np.bincount(part.astype(np.int64), minlength=self.parts))
        for number, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            if end > start:
                self._append(number, records[order[start:end]])

    def read(self, part: int) -> NDArray[Any]:
        """All records of a part."""
        path = self._path(part)
        return np.fromfile(path, self._dtype) if path.exists() else np.empty(0, self._dtype)

    def chunks(self, part: int, records: int) -> Iterator[NDArray[Any]]:
        """The records of a part, so many at a time."""
        path = self._path(part)
        if not path.exists():
            return
        with path.open("rb") as file:
            while len(chunk := np.fromfile(file, self._dtype, records)):
                yield chunk

    def clear(self) -> None:
        """Delete the files."""
        for path in self._folder.iterdir():
            path.unlink()
        self._folder.rmdir()

    def _append(self, part: int, records: NDArray[Any]) -> None:
        with self._path(part).open("ab") as file:
            np.ascontiguousarray(records, self._dtype).tofile(file)

    def _path(self, part: int) -> Path:
        return self._folder / f"{part:05d}"
