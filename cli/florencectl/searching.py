"""Exact search in a file of embeddings, which is mapped into memory and never read whole."""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from florence.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 1 << 16
"""Rows compared at a time."""
_LOCAL_HEADER = struct.Struct("<26xHH")


@dataclass(frozen=True)
class Found:
    """An entry of an index, and its cosine with what was asked for."""

    name: str
    score: float


@dataclass(frozen=True)
class EmbeddingIndex:
    """Names and embeddings (N, D) fp32 of unit length, the latter mapped into memory."""

    names: NDArray[np.str_]
    embeddings: NDArray[np.float32]

    @classmethod
    def open(cls, path: str) -> EmbeddingIndex:
        """The ``.npz`` that ``florencectl embed`` wrote. Raises :class:`DataError`."""
        import numpy as np

        try:
            with np.load(path, allow_pickle=False) as arrays:
                names = arrays["names"]
            embeddings = _mapped(path, "embeddings.npy")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (KeyError, ValueError, zipfile.BadZipFile, struct.error) as error:
            raise DataError(
                f"{path}: no index of embeddings ({error}): write one with florencectl embed "
                "-o FILE.npz"
            ) from None
        if embeddings.ndim != 2 or len(embeddings) != len(names) or embeddings.dtype != np.float32:
            raise DataError(f"{path}: names and embeddings do not fit together: embed again")
        return cls(names, embeddings)

    def search(self, vector: NDArray[np.float32], count: int) -> list[Found]:
        """The entries nearest to a vector (D,), best first; of equal ones the first.

        Raises:
            DataError: the vector is of another length: it is another model's.
        """
        import numpy as np

        if vector.shape != self.embeddings.shape[1:]:
            raise DataError(
                f"the index has embeddings of length {self.embeddings.shape[1]} and the model of "
                f"length {len(vector)}: embed the files with this model"
            )
        scores = np.empty(len(self.embeddings), np.float32)
        for start in range(0, len(scores), _ROWS):
            scores[start : start + _ROWS] = self.embeddings[start : start + _ROWS] @ vector
        count = min(count, len(scores))
        if not count:
            return []
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        candidates = np.flatnonzero(scores >= least)
        order = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
        return [Found(str(self.names[i]), float(scores[i])) for i in order.tolist()]


def _mapped(path: str, member: str) -> NDArray[np.float32]:
    """An array inside a ``.npz``, mapped from the file: its members are stored as they are."""
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        found = archive.getinfo(member)
    if found.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    with Path(path).open("rb") as file:
        file.seek(found.header_offset)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(name + extra, 1)
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran, dtype = read[version](file)
        if fortran:
            raise ValueError("its columns are stored one after the other")
        start = file.tell()
    array: NDArray[np.float32] = np.memmap(path, dtype, "r", start, shape)
    return array
