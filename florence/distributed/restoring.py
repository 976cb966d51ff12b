"""Reading a checkpoint by all ranks together: every file once, its content sent to all in need.

The unit is a file, since a reader fetches and verifies whole files. Files are dealt to the ranks in
runs of equal length, in order; what ranks saved in shards they mostly read themselves again. In
every round each rank has read one file, and its part that all ranks need is broadcast, while the
next file is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from florence.checkpoint.exchange import unexpected
from florence.checkpoint.fragment import FiledReader, Slice, TensorReader
from florence.distributed.world import World
from florence.errors import DataError, FlorenceError

OnProgress = Callable[[int, int], None]
"""Told the bytes done and the bytes in all."""

_PIECE_BYTES = 48 << 20
"""Payload of what counts as a file where a reader has none."""
_ALIGNMENT = 16
"""Bytes; the largest element of any dtype."""


@dataclass(frozen=True)
class Part:
    """A run of one tensor that is to be filled: ``values`` is a live 1-D view."""

    name: str
    shape: tuple[int, ...]
    offset: int
    values: Tensor


@torch.no_grad()
def fill(
    read: TensorReader,
    world: World,
    whole: Mapping[str, Tensor],
    parts: Sequence[Part],
    on_progress: OnProgress | None = None,
) -> None:
    """Fill ``whole`` on every rank and ``parts`` on this one; collective."""
    for name, tensor in whole.items():
        require_shape(read, name, tuple(tensor.shape))
    for part in parts:
        require_shape(read, part.name, part.shape)
    targets = _Targets(whole, parts, on_progress)
    files = _files(read, {*whole, *(part.name for part in parts)})
    shared = [[held for held in file if held.name in whole] for file in files]
    dtypes = {name: _dtype(read, name) for name in whole}
    mine: set[int | None] = set()
    numbers = [number for number, held in enumerate(shared) if held]
    rounds = _dealt(numbers, world.size)
    with ThreadPoolExecutor(1) as pool:
        own = [one[world.rank] for one in rounds]
        ahead = pool.submit(_read, read, files, own[0], targets) if own else None
        for number, dealt in enumerate(rounds):
            assert ahead is not None
            values, error = ahead.result()
            world.raise_alike(error)
            if number + 1 < len(rounds):
                ahead = pool.submit(_read, read, files, own[number + 1], targets)
            mine.add(dealt[world.rank])
            for held, run in values.items():
                targets.fill_parts(held, run)
            for source, file in enumerate(dealt):
                if file is not None:
                    _send(world, source, _placed(shared[file], dtypes), values, targets)
    rest = (n for n in range(len(files)) if n not in mine)
    world.raise_alike(_fill_rest(read, files, rest, targets))
    targets.check(read)


def require_shape(read: TensorReader, name: str, shape: tuple[int, ...]) -> None:
    """Raise DataError unless the checkpoint holds ``name`` in ``shape``."""
    found = tuple(read.shape(name))
    if found != shape:
        raise DataError(
            f"checkpoint tensor {name} has shape {found}, the model needs {shape}: "
            "restore into the architecture and window that wrote it"
        )


class _Targets:
    """The live tensors that are filled, and how much of them is."""

    def __init__(
        self, whole: Mapping[str, Tensor], parts: Sequence[Part], on_progress: OnProgress | None
    ) -> None:
        self.whole = {name: _Whole(tensor.detach()) for name, tensor in whole.items()}
        self.parts: defaultdict[str, list[Part]] = defaultdict(list)
        for part in parts:
            self.parts[part.name].append(part)
        self._left = sum(part.values.numel() for part in parts)
        self._total = sum(t.nbytes for t in (*whole.values(), *(p.values for p in parts)))
        self._done = 0
        self._on_progress = on_progress

    def wants(self, held: Slice) -> bool:
        """Whether anything of a slice is needed on this rank alone."""
        return any(_overlap(held, part) for part in self.parts.get(held.name, ()))

    def fill_parts(self, held: Slice, values: Tensor) -> None:
        """Take from a slice what this rank alone needs."""
        for part in self.parts.get(held.name, ()):
            common = _overlap(held, part)
            if common:
                first, last = common
                run = part.values[first - part.offset : last - part.offset]
                run.copy_(values[first - held.offset : last - held.offset])
                self._left -= last - first
                self._done += run.nbytes

    def fill_whole(self, held: Slice, values: Tensor) -> None:
        """Take a slice that every rank needs."""
        self._done += self.whole[held.name].fill(held.offset, values)

    def tell(self) -> None:
        """Report how much is done."""
        if self._on_progress:
            self._on_progress(self._done, self._total)

    def check(self, read: TensorReader) -> None:
        """Raise ``DataError`` unless everything was filled."""
        missing = [name for name, whole in self.whole.items() if whole.left]
        if missing or self._left:
            what = missing[0] if missing else "a shard"
            raise DataError(f"the checkpoint does not hold all elements of {what}: restore another")


class _Whole:
    """A live tensor of any strides that is filled run by run."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self._flat = tensor.view(-1) if tensor.is_contiguous() else None
        self.left = tensor.numel()

    def fill(self, offset: int, values: Tensor) -> int:
        """Overwrite the elements from ``offset`` on; how many bytes that were."""
        if self._flat is None:
            self._flat = torch.empty_like(self._tensor, memory_format=torch.contiguous_format)
            self._flat = self._flat.view(-1)
        run = self._flat[offset : offset + values.numel()]
        run.copy_(values)
        self.left -= values.numel()
        if not self.left and not self._tensor.is_contiguous():
            self._tensor.copy_(self._flat.view(self._tensor.shape))
            self._flat = None
        return run.nbytes


class _Placed(NamedTuple):
    """Where a slice lies in the bytes that are sent."""

    held: Slice
    dtype: torch.dtype
    begin: int
    end: int


def _files(read: TensorReader, names: Iterable[str]) -> list[list[Slice]]:
    """What is needed of each file; pieces of a tensor where the reader has no files."""
    wanted = set(names)
    if isinstance(read, FiledReader):
        files = [[held for held in file if held.name in wanted] for file in read.files()]
        return [file for file in files if file]
    return [[piece] for name in sorted(wanted) for piece in _pieces(read, name)]


def _pieces(read: TensorReader, name: str) -> Iterator[Slice]:
    elements = torch.Size(read.shape(name)).numel()
    step = max(1, _PIECE_BYTES // _dtype(read, name).itemsize)
    for offset in range(0, elements, step):
        yield Slice(name, offset, min(step, elements - offset))


def _dealt(numbers: Sequence[int], size: int) -> list[list[int | None]]:
    """Rounds, each with a number for every rank or None: runs of equal length by rank."""
    hands: list[list[int]] = [[] for _ in range(size)]
    for place, number in enumerate(numbers):
        hands[place * size // len(numbers)].append(number)
    longest = max(map(len, hands), default=0)
    return [[hand[turn] if turn < len(hand) else None for hand in hands] for turn in range(longest)]


def _read(
    read: TensorReader, files: Sequence[Sequence[Slice]], number: int | None, targets: _Targets
) -> tuple[dict[Slice, Tensor], FlorenceError | None]:
    """What is needed of one file, by all or by this rank; an error instead of raising it."""
    if number is None:
        return {}, None
    wanted = [held for held in files[number] if held.name in targets.whole or targets.wants(held)]
    try:
        return {held: read.read(*held) for held in wanted}, None
    except FlorenceError as error:
        return {}, error
    except Exception as error:  # a rank that stays silent would hang the others
        return {}, unexpected("reading the checkpoint", error)


def _send(
    world: World,
    source: int,
    placed: Sequence[_Placed],
    values: Mapping[Slice, Tensor],
    targets: _Targets,
) -> None:
    """Bring what rank ``source`` read of one file to every rank."""
    if world.size == 1:
        for place in placed:
            targets.fill_whole(place.held, values[place.held])
        targets.tell()
        return
    staged = torch.empty(placed[-1].end, dtype=torch.uint8, device=world.device)
    if world.rank == source:
        for place in placed:
            staged[place.begin : place.end].copy_(values[place.held].view(torch.uint8))
    world.broadcast(staged, source)
    for place in placed:
        targets.fill_whole(place.held, staged[place.begin : place.end].view(place.dtype))
    targets.tell()


def _placed(slices: Sequence[Slice], dtypes: Mapping[str, torch.dtype]) -> list[_Placed]:
    placed, begin = [], 0
    for held in slices:
        dtype = dtypes[held.name]
        end = begin + held.length * dtype.itemsize
        placed.append(_Placed(held, dtype, begin, end))
        begin = end + -end % _ALIGNMENT
    return placed


def _fill_rest(
    read: TensorReader,
    files: Sequence[Sequence[Slice]],
    numbers: Iterable[int],
    targets: _Targets,
) -> FlorenceError | None:
    """Take what this rank alone needs from files that other ranks read; the first error."""
    for number in numbers:
        wanted = [held for held in files[number] if targets.wants(held)]
        if not wanted:
            continue
        try:
            for held in wanted:
                targets.fill_parts(held, read.read(*held))
        except FlorenceError as error:
            return error
        except Exception as error:
            return unexpected("reading the checkpoint", error)
        targets.tell()
    return None


def _dtype(read: TensorReader, name: str) -> torch.dtype:
    """The stored dtype of a tensor; reading no elements costs no file."""
    return read.read(name, 0, 0).dtype


def _overlap(held: Slice, part: Part) -> tuple[int, int] | None:
    first = max(held.offset, part.offset)
    last = min(held.offset + held.length, part.offset + part.values.numel())
    return (first, last) if first < last else None
