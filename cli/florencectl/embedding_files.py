"""How embeddings are written: to a file, whose name says in which format, or to stdout."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence.errors import ConfigurationError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = Sequence[tuple[str, NDArray[np.float32]]]


def npz(rows: Rows) -> bytes:
    """The arrays ``names`` and ``embeddings``."""
    import numpy as np

    buffer = io.BytesIO()
    names, embeddings = zip(*rows, strict=True)
    np.savez(buffer, names=np.array(names), embeddings=np.stack(embeddings))
    return buffer.getvalue()


def parquet(rows: Rows) -> bytes:
    """The columns ``name`` and ``embedding``, a list of fixed size."""
    import numpy as np
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names, embeddings = zip(*rows, strict=True)
    matrix = np.stack(embeddings)
    column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
    buffer = io.BytesIO()
    write_table(pa.table({"name": list(names), "embedding": column}), buffer)
    return buffer.getvalue()


def comma_separated(rows: Rows) -> bytes:
    """A header, and a line for each: the name and a column for every number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", *range(len(rows[0][1]))])
    writer.writerows([name, *_numbers(row)] for name, row in rows)
    return text.getvalue().encode()


def json_lines(rows: Rows) -> bytes:
    """A JSON object a line, with ``name`` and ``embedding``."""
    return "".join(f"{json.dumps(_object(name, row))}\n" for name, row in rows).encode()


def json_list(rows: Rows) -> bytes:
    """The same objects in one JSON list."""
    lines = ",\n ".join(json.dumps(_object(name, row)) for name, row in rows)
    return f"[{lines}]\n".encode()


FILES: Mapping[str, Callable[[Rows], bytes]] = {
    ".npz": npz,
    ".parquet": parquet,
    ".csv": comma_separated,
    ".jsonl": json_lines,
    ".json": json_list,
}
"""By the end of the file's name."""
PRINTED = ("csv", "json", "jsonl")
"""What may be said instead of a file."""


def check_target(output: str) -> None:
    """Refuse a target that cannot be written, before the work that would be lost."""
    if output in PRINTED:
        return
    path = Path(output)
    if path.suffix not in FILES:
        raise ConfigurationError(
            f"-o {output}: name a file that ends in one of {', '.join(FILES)}, or print with one "
            f"of {', '.join(PRINTED)}"
        )
    if path.is_dir():
        raise ConfigurationError(f"{output}: is a folder: give the name of a file")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise ConfigurationError(f"{folder}: no such folder: create it first")
    if not os.access(folder, os.W_OK):
        raise ConfigurationError(f"{folder}: cannot be written to: choose another folder")


def write(output: str, rows: Rows) -> None:
    """Print the rows, or write the file whole or not at all."""
    if output in PRINTED:
        sys.stdout.write(FILES[f".{output}"](rows).decode())
        return
    from florence.storage import FolderStorage

    target = Path(output).absolute()
    FolderStorage(target.parent).write(target.name, FILES[target.suffix](rows))


def _object(name: str, row: NDArray[np.float32]) -> dict[str, Any]:
    return {"name": name, "embedding": _numbers(row)}


def _numbers(row: NDArray[np.float32]) -> list[float]:
    """The shortest decimal fractions that are read as the same fp32 numbers."""
    return [float(str(value)) for value in row]
