"""Search in files of embeddings, against comparing every row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from florence.errors import DataError
from florencectl.embedding_files import npz
from florencectl.searching import EmbeddingIndex


def index_of(folder: Path, count: int, size: int = 8) -> tuple[str, np.ndarray]:
    rows = np.random.default_rng(0).normal(size=(count, size)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    path = folder / "index.npz"
    path.write_bytes(npz([(f"clip-{i}.mp4", row) for i, row in enumerate(rows)]))
    return str(path), rows


@pytest.mark.parametrize("count", [1, 5, 70_000])
def test_finds_what_comparing_every_row_finds(tmp_path: Path, count: int) -> None:
    path, rows = index_of(tmp_path, count)
    opened = EmbeddingIndex.open(path)
    assert isinstance(opened.embeddings, np.memmap)
    vector = rows[count // 2]
    found = opened.search(vector, 3)
    expected = np.argsort(-(rows @ vector), kind="stable")[:3]
    assert [each.name for each in found] == [f"clip-{i}.mp4" for i in expected]
    assert found[0].score == pytest.approx(1, abs=1e-5)


def test_of_equal_ones_the_first_comes_first(tmp_path: Path) -> None:
    row = np.array([1, 0], np.float32)
    (tmp_path / "i.npz").write_bytes(npz([(str(i), row) for i in range(9)]))
    found = EmbeddingIndex.open(str(tmp_path / "i.npz")).search(row, 4)
    assert [each.name for each in found] == ["0", "1", "2", "3"]


def test_says_what_is_no_index(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no zip")
    np.savez(tmp_path / "b.npz", other=np.zeros(3))
    np.savez_compressed(
        tmp_path / "c.npz", names=np.array(["a"]), embeddings=np.zeros((1, 2), np.float32)
    )
    for name in ("a", "b", "c"):
        with pytest.raises(DataError, match=rf"{name}.npz: no index of embeddings"):
            EmbeddingIndex.open(str(tmp_path / f"{name}.npz"))
    with pytest.raises(DataError, match=r"none.npz: cannot be read: No such file"):
        EmbeddingIndex.open(str(tmp_path / "none.npz"))
    path, _ = index_of(tmp_path, 3)
    with pytest.raises(DataError, match="of length 8 and the model of length 2"):
        EmbeddingIndex.open(path).search(np.zeros(2, np.float32), 1)
