"""Batches of any kind of sample are cut and moved field by field."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from florence.data.batch import Batch, BrokenSample, to_device

BROKEN = tuple(BrokenSample(f"{i}.tar", f"k{i}", "no image") for i in range(3))


@dataclass(frozen=True, kw_only=True)
class DetectionBatch(Batch):
    """What a kind may add: stacked tensors, tensors of different sizes, texts."""

    images: Tensor
    labels: Tensor
    boxes: tuple[Tensor, ...]
    captions: tuple[str, ...]
    crowd: tuple[bool, ...] = ()


def batch_of(size: int) -> DetectionBatch:
    rows = torch.arange(size)
    return DetectionBatch(
        keys=tuple(f"0/{i}" for i in range(size)),
        broken=BROKEN,
        images=rows.float()[:, None, None, None].expand(size, 3, 2, 2),
        labels=rows,
        boxes=tuple(torch.full((i % 4, 4), float(i)) for i in range(size)),
        captions=tuple(f"caption {i}" for i in range(size)),
        crowd=tuple(i % 2 == 0 for i in range(size)),
    )


@given(st.integers(1, 40), st.integers(1, 50))
def test_chunks_are_the_batch_in_even_parts(size: int, n: int) -> None:
    batch = batch_of(size)
    parts = batch.chunk(n)
    assert len(parts) == min(n, size)
    assert all(type(part) is DetectionBatch for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for name in ("images", "labels"):
        assert torch.equal(torch.cat([getattr(p, name) for p in parts]), getattr(batch, name))
    for name in ("keys", "captions", "crowd"):
        assert sum((getattr(p, name) for p in parts), ()) == getattr(batch, name)
    boxes = [box for part in parts for box in part.boxes]
    assert len(boxes) == size
    assert all(torch.equal(a, b) for a, b in zip(boxes, batch.boxes, strict=True))
    assert sum((part.broken for part in parts), ()) == BROKEN, "counted once, not once a chunk"
    for part in parts:
        numbers = [int(key.removeprefix("0/")) for key in part.keys]
        assert part.labels.tolist() == numbers
        assert [len(box) for box in part.boxes] == [number % 4 for number in numbers]


def test_a_chunk_shares_the_batchs_memory() -> None:
    batch = batch_of(4)
    _, second = batch.chunk(2)
    assert second.labels.data_ptr() == batch.labels[2:].data_ptr()
    assert second.boxes[1] is batch.boxes[3]


def test_to_moves_every_tensor_and_keeps_the_rest() -> None:
    batch = batch_of(4)
    moved = batch.to("meta")
    assert type(moved) is DetectionBatch
    tensors = [moved.images, moved.labels, *moved.boxes]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [tuple(box.shape) for box in moved.boxes] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    for field in fields(batch):
        if field.name not in ("images", "labels", "boxes"):
            assert getattr(moved, field.name) == getattr(batch, field.name)
    assert batch.images.device.type == "cpu", "the original stays where it was"


def test_a_batch_without_tensors_moves_too() -> None:
    plain = Batch(keys=("a", "b"))
    assert plain.to("meta") == plain
    assert [part.keys for part in plain.chunk(5)] == [("a",), ("b",)]


def test_a_tensor_for_the_cpu_is_handed_on_as_it_is() -> None:
    tensor = torch.ones(3)
    assert to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.cuda
def test_a_tensor_for_a_gpu_is_a_copy_that_outlives_its_buffer() -> None:
    buffer = torch.ones(1 << 20)
    moved = to_device(buffer, torch.device("cuda"))
    buffer.zero_()  # the worker writes the next batch
    torch.cuda.synchronize()
    assert bool((moved == 1).all())
