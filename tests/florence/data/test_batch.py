from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from florence.data.batch import Batch


def batch_of(size: int) -> Batch:
    rows = torch.arange(size)
    return Batch(
        images=rows.float()[:, None, None, None].expand(size, 3, 2, 2),
        ids=rows[:, None].expand(size, 8),
        labels=rows,
        keys=tuple(f"0/{i}" for i in range(size)),
        bad=3,
        position=100,
    )


@given(st.integers(1, 40), st.integers(1, 50))
def test_chunks_are_the_batch_in_even_parts(size: int, n: int) -> None:
    batch = batch_of(size)
    parts = batch.chunk(n)
    assert len(parts) == min(n, size)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for name in ("images", "ids", "labels"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
    assert sum((p.keys for p in parts), ()) == batch.keys
    assert sum(p.bad for p in parts) == batch.bad
    for part in parts:
        assert part.position == 100 + int(part.labels[0])


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    moved = batch_of(4).to("meta")
    assert {t.device.type for t in (moved.images, moved.ids, moved.labels)} == {"meta"}
    assert (moved.keys, moved.bad, moved.position) == (batch_of(4).keys, 3, 100)
