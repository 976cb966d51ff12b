"""Restoring together: every file of a checkpoint is read once, and every element lands right."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from florence.checkpoint import (
    CheckpointWriter,
    Fragment,
    GlooExchange,
    SingleProcess,
    newest,
    share_of,
)
from florence.checkpoint.reader import Checkpoint
from florence.distributed.training_state import (
    Shard,
    cpu_copies,
    fill_state,
    fill_whole,
    whole_tensors,
)
from florence.distributed.world import World, join
from florence.errors import DataError, TransientError
from florence.storage import FolderStorage
from tests.child import run_child
from tests.florence.checkpoint.faults import MemoryStorage
from tests.florence.distributed.tiny import MemoryReader, portable
from tests.gang import exit_codes_of, run_gang

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32),
    *(torch.bool, torch.complex64),
]


def some_state(seed: int, size: int = 1) -> dict[str, Tensor]:
    """Tensors of every dtype, of odd shapes, scalars and empty ones among them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(), (7,), (3, 5), (0, 2), (11, 3, 2), (97,)]
    state = {}
    for number, dtype in enumerate(DTYPES):
        shape = shapes[number % len(shapes)]
        if number == 4:
            shape = (4 * size, 5)
        values = torch.randint(0, 2, shape, generator=generator)
        state[f"model/t{number:02d}"] = values.to(dtype)
    for number in range(40):  # enough for several files a rank
        state[f"exp_avg/w{number:02d}"] = torch.randn(5, 9, generator=generator)
    return state


def equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and _bytes(one) == _bytes(other)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def store(storage: Any, state: dict[str, Tensor], world: World, exchange: Any) -> None:
    writer = CheckpointWriter(
        storage, attempt=1, world=world, exchange=exchange, shard_bytes=400, keep=9
    )
    writer.save(1, share_of(state, world.rank, world.size), {"mine": torch.ones(3)}, {})
    writer.wait()


class CountingStorage(FolderStorage):
    """A folder that counts the bytes read from it, by key."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.reads = Counter[str]()

    def read(self, key: str) -> bytes:
        body = super().read(key)
        if key.endswith(".safetensors"):
            self.reads[key] += 1
        return body


def files_of(checkpoint: Checkpoint) -> int:
    return len(checkpoint.manifest.files)


def _save(folder: Path, seed: int) -> None:
    store(FolderStorage(folder), some_state(seed), join(60.0), GlooExchange())


def _restore_whole(folder: Path, seed: int) -> dict[str, Any]:
    world, storage = join(60.0), CountingStorage(folder)
    read = newest(storage, digests=False)
    assert read is not None
    state = some_state(seed)
    live = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    live["exp_avg/w03"] = torch.zeros(9, 5).t()  # strides of its own
    told: list[tuple[int, int]] = []
    fill_whole(live, read, world, on_progress=lambda done, total: told.append((done, total)))
    return {
        "wrong": [name for name, tensor in state.items() if not equal(live[name], tensor)],
        "reads": dict(storage.reads),
        "files": files_of(read),
        "told": told,
        "bytes": sum(tensor.nbytes for tensor in state.values()),
    }


@pytest.mark.parametrize(("writers", "readers"), [(2, 2), (2, 3), (3, 1)])
def test_ranks_together_read_every_file_once(tmp_path: Path, writers: int, readers: int) -> None:
    run_gang(_save, writers, tmp_path, 5)
    results = run_gang(_restore_whole, readers, tmp_path, 5)
    total = Counter[str]()
    for result in results:
        assert result["wrong"] == []
        total.update(result["reads"])
        done = [done for done, _ in result["told"]]
        assert done == sorted(done)
        assert {of for _, of in result["told"]} == {result["bytes"]}
        assert done[-1] == result["bytes"]
    assert set(total.values()) == {1}
    assert len(total) == results[0]["files"] > 3 * readers
    shares = [len(result["reads"]) for result in results]
    assert max(shares) - min(shares) <= 1


def _shards_of(live: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], world: World) -> Any:
    """As ZeRO cuts: parameters end to end in an order of their own, equal parts, three kinds."""
    order = sorted(shapes, key=lambda name: hashlib.sha256(name.encode()).digest())
    total = sum(torch.Size(shapes[name]).numel() for name in order)
    begin, end = total * world.rank // world.size, total * (world.rank + 1) // world.size
    flat = {kind: torch.zeros(end - begin) for kind in ("model", "exp_avg", "exp_avg_sq")}
    shards, position = [], 0
    for name in order:
        elements = torch.Size(shapes[name]).numel()
        first, last = max(position, begin), min(position + elements, end)
        if first < last:
            views = {kind: values[first - begin : last - begin] for kind, values in flat.items()}
            shards.append(Shard(name, shapes[name], first - position, views))
        position += elements
    return shards


SHAPES = {f"p{number}": (3 + number % 7, 5) for number in range(24)} | {"scalar": ()}


def zero_state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        f"{kind}/{name}": torch.randn(shape, generator=generator)
        for kind in ("model", "exp_avg", "exp_avg_sq")
        for name, shape in SHAPES.items()
    }


def _as_zero(folder: Path, save: bool) -> dict[str, Any]:
    world, storage = join(60.0), CountingStorage(folder)
    shards = _shards_of({}, SHAPES, world)
    state = zero_state()
    if save:
        fragments = []
        for shard in shards:
            for fragment in shard.fragments():
                flat = state[fragment.name].reshape(-1)
                fragment.values.copy_(flat[fragment.offset : fragment.end])
                fragments.append(fragment)
        writer = CheckpointWriter(
            storage, attempt=1, world=world, exchange=GlooExchange(), shard_bytes=400
        )
        writer.save(1, fragments, {}, {})
        writer.wait()
        return {}
    read = newest(storage, digests=False)
    assert read is not None
    whole = {f"model/{name}": torch.zeros(shape) for name, shape in SHAPES.items()}
    fill_state(read, world, whole=whole, shards=shards)
    wrong = [name for name, tensor in whole.items() if not torch.equal(tensor, state[name])]
    for fragment in (f for shard in shards for f in shard.fragments()):
        flat = state[fragment.name].reshape(-1)[fragment.offset : fragment.end]
        wrong += [] if torch.equal(fragment.values, flat) else [fragment.name]
    return {"wrong": wrong, "reads": sum(storage.reads.values()), "files": files_of(read)}


@pytest.mark.parametrize(("writers", "readers", "most"), [(3, 3, 1.2), (2, 3, 2.0)])
def test_shards_and_whole_parameters_come_out_of_one_reading(
    tmp_path: Path, writers: int, readers: int, most: float
) -> None:
    run_gang(_as_zero, writers, tmp_path, True)
    results = run_gang(_as_zero, readers, tmp_path, False)
    assert [result["wrong"] for result in results] == [[]] * readers
    reads = sum(result["reads"] for result in results)
    assert results[0]["files"] <= reads <= most * results[0]["files"]


def test_shards_alone_are_read_file_by_file(tmp_path: Path) -> None:
    storage = CountingStorage(tmp_path)
    state = zero_state()
    store(storage, state, World(), SingleProcess())
    read = newest(storage, digests=False)
    assert read is not None
    shards = _shards_of({}, SHAPES, World())
    fill_state(read, World(), shards=shards)
    assert set(storage.reads.values()) == {1}
    for fragment in (f for shard in shards for f in shard.fragments()):
        assert torch.equal(
            fragment.values, state[fragment.name].reshape(-1)[fragment.offset : fragment.end]
        )


class _Failing(CountingStorage):
    """A folder whose files cannot be read, or are damaged, on one rank."""

    def __init__(self, folder: Path, error: str | None) -> None:
        super().__init__(folder)
        self.error = error

    def read(self, key: str) -> bytes:
        body = super().read(key)
        if self.error is None or not key.endswith(".safetensors"):
            return body
        if self.error == "damage":
            return body[:-1] + bytes([body[-1] ^ 1])
        if self.error == "bug":
            raise KeyError("bug")
        raise TransientError("s3://b: gave up")


def _restore_with_failure(folder: Path, error: str) -> str:
    world = join(60.0)
    read = newest(_Failing(folder, error if world.rank == 1 else None), digests=False)
    assert read is not None
    live = {name: torch.zeros_like(tensor) for name, tensor in some_state(5).items()}
    try:
        fill_whole(live, read, world)
    except (DataError, TransientError) as caught:
        return f"{type(caught).__name__}: {caught}"
    return "restored"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("damage", "DataError: .* differs from what was committed"),
        ("outage", "TransientError: s3://b: gave up"),
        ("bug", "TransientError: reading the checkpoint failed .KeyError"),
    ],
)
def test_what_one_rank_cannot_read_every_rank_raises(
    tmp_path: Path, error: str, message: str
) -> None:
    store(FolderStorage(tmp_path), some_state(5), World(), SingleProcess())
    first, second = run_gang(_restore_with_failure, 2, tmp_path, error)
    assert first == second
    with pytest.raises(RuntimeError, match=message):
        raise RuntimeError(first)


def _restore_beside_a_dead_rank(folder: Path) -> None:
    from florence.errors import LostPeersError

    world = join(60.0)
    if world.rank == 1:
        os._exit(0)
    read = newest(FolderStorage(folder), digests=False)
    assert read is not None
    live = {name: torch.zeros_like(tensor) for name, tensor in some_state(5).items()}
    with pytest.raises(LostPeersError):
        fill_whole(live, read, world)
    os._exit(7)


def test_a_rank_that_dies_while_restoring_is_a_lost_peer(tmp_path: Path) -> None:
    store(FolderStorage(tmp_path), some_state(5), World(), SingleProcess())
    assert exit_codes_of(_restore_beside_a_dead_rank, 2, tmp_path)[0] == 7


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_state_comes_back_alone(data: st.DataObject) -> None:
    dtypes = data.draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=8))
    state = {}
    for number, dtype in enumerate(dtypes):
        shape = data.draw(st.sampled_from([(), (1,), (5,), (3, 4), (0,), (2, 3, 2)]))
        state[f"model/{number}"] = torch.randint(0, 2, shape).to(dtype)
    storage = MemoryStorage()
    store(storage, state, World(), SingleProcess())
    read = newest(storage)
    assert read is not None
    live = {name: torch.ones_like(tensor) for name, tensor in state.items()}
    fill_whole(live, read)
    assert all(equal(live[name], tensor) for name, tensor in state.items())


def test_a_reader_without_files_serves_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("florence.distributed.restoring._PIECE_BYTES", 16)
    state = {"model/a": torch.arange(11.0), "model/b": torch.tensor(3.0)}
    read = MemoryReader(portable(share_of(state, 0, 1)))
    live = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    fill_whole(live, read)
    assert all(torch.equal(live[name], tensor) for name, tensor in state.items())


class Normed(nn.Module):
    """A frozen layer, running statistics, a counter, a mask, and a buffer that is not saved."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(3, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.register_buffer("grid", torch.arange(6), persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        out: Tensor = self.norm(self.frozen(rows)) * self.scale
        return out


def trained(optimizer: Callable[..., Any]) -> tuple[Normed, Any]:
    torch.manual_seed(0)
    model = Normed()
    of = optimizer([p for p in model.parameters() if p.requires_grad])
    model(torch.randn(8, 3)).square().sum().backward()
    of.step()
    return model, of


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


@pytest.mark.parametrize(
    ("optimizer", "kinds"),
    [(torch.optim.AdamW, {"exp_avg", "exp_avg_sq"}), (_sgd, {"momentum_buffer"})],
)
def test_frozen_parameters_and_buffers_come_back(
    optimizer: Callable[..., Any], kinds: set[str]
) -> None:
    model, of = trained(optimizer)
    state = whole_tensors(model, of)
    of_model = {name.partition("/")[2] for name in state if name.startswith("model/")}
    assert of_model == set(model.state_dict())
    assert {name.partition("/")[0] for name in state} == {"model", *kinds}
    moments = {name.partition("/")[2] for name in state if not name.startswith("model/")}
    assert moments == {"norm.weight", "norm.bias", "scale"}
    storage = MemoryStorage()
    store(storage, state, World(), SingleProcess())
    read = newest(storage)
    assert read is not None
    fresh = Normed()
    with torch.no_grad():
        fresh.mask.fill_(False)
    other = optimizer([p for p in fresh.parameters() if p.requires_grad])
    fresh(torch.randn(8, 3)).sum().backward()
    other.step()
    fill_whole(whole_tensors(fresh, other), read)
    restored = whole_tensors(fresh, other)
    assert all(equal(restored[name], tensor) for name, tensor in state.items())
    assert restored["model/norm.num_batches_tracked"].dtype == torch.int64
    assert int(restored["model/norm.num_batches_tracked"]) == 1


def test_a_checkpoint_without_a_tensor_or_with_another_shape_is_refused() -> None:
    model, of = trained(torch.optim.AdamW)
    storage = MemoryStorage()
    state = whole_tensors(model, of)
    held = {name: tensor for name, tensor in state.items() if name != "model/mask"}
    store(storage, held, World(), SingleProcess())
    read = newest(storage)
    assert read is not None
    with pytest.raises(DataError, match="holds no tensor 'model/mask'"):
        fill_whole(state, read)
    with pytest.raises(DataError, match="has shape"):
        fill_whole({"model/scale": torch.zeros(2)}, read)


def test_only_who_keeps_copies_copies() -> None:
    passed: list[str] = []

    def gathered() -> Iterator[tuple[str, Tensor]]:
        for name, tensor in (("half", torch.ones(2).half()), ("count", torch.tensor(3))):
            passed.append(name)
            yield name, tensor

    copies = cpu_copies(gathered())
    assert (copies["half"].dtype, copies["count"].dtype) == (torch.float32, torch.int64)
    assert cpu_copies(gathered(), keep=False) == {}
    assert passed == ["half", "count"] * 2


def _peak_beside_the_state(folder: Path) -> tuple[int, int, int]:
    """Largest tensor storage that restoring made, the state's bytes, and the largest file's."""
    storage = FolderStorage(folder)
    read = newest(storage, digests=False)
    assert read is not None
    live = {name: torch.zeros_like(tensor) for name, tensor in some_state(5).items()}
    made: list[int] = []
    empty = torch.empty

    def watch(*arguments: Any, **options: Any) -> Tensor:
        tensor: Tensor = empty(*arguments, **options)
        made.append(tensor.nbytes)
        return tensor

    torch.empty = watch  # type: ignore[assignment]
    fill_whole(live, read, _TwoRanks())
    largest = max(digest.size for digest in read.manifest.files.values())
    return max(made), sum(tensor.nbytes for tensor in live.values()), largest


class _TwoRanks(World):
    """Rank 0 of a gang whose other rank reads nothing and only listens."""

    def __init__(self) -> None:
        super().__init__(rank=0, size=2)

    def raise_alike(self, error: Any) -> None:
        assert error is None

    def broadcast(self, values: Tensor, source: int = 0) -> None:
        """What rank 1 would send stays what it is."""


def test_a_file_at_a_time_is_staged(tmp_path: Path) -> None:
    store(FolderStorage(tmp_path), some_state(5), World(), SingleProcess())
    staged, state, file = run_child(_peak_beside_the_state, tmp_path, answer=True)
    assert staged <= file < state / 5


def test_fragments_of_any_dtype_are_kept() -> None:
    storage = MemoryStorage()
    values = torch.tensor([1, 2], dtype=torch.uint32)
    exchange = SingleProcess()
    writer = CheckpointWriter(storage, attempt=1, world=exchange, exchange=exchange)
    writer.save(1, [Fragment("model/n", (2,), 0, values)], {}, {})
    writer.wait()
    read = newest(storage)
    assert read is not None
    assert read.read("model/n").tolist() == [1, 2]
    assert read.manifest.tensors["model/n"].dtype == "U32"
