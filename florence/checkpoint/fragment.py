"""Pieces of a training state that is spread over ranks, and how to read it back in any cut."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class Fragment:
    """A contiguous run of elements of one tensor of the global state.

    ``name`` such as ``model/image.head.weight`` or ``exp_avg/…``; ``shape`` the whole tensor's;
    ``offset`` the run's first element in the flattened tensor; ``values`` the run, 1-D, of any
    dtype and on any device. Raises ``ValueError`` when the run does not lie within the tensor.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 1:
            raise ValueError(f"{self.name}: values must be 1-D, not {tuple(self.values.shape)}")
        if self.offset < 0 or self.end > math.prod(self.shape):
            raise ValueError(
                f"{self.name}: elements {self.offset} to {self.end} lie outside shape {self.shape}"
            )

    @property
    def end(self) -> int:
        """One past the last element."""
        return self.offset + self.values.numel()


class Slice(NamedTuple):
    """``length`` elements from ``offset`` of one tensor of the global state, flattened."""

    name: str
    offset: int
    length: int


class TensorReader(Protocol):
    """A global state that can be read in any cut, whatever cut wrote it."""

    def names(self) -> list[str]:
        """Every tensor, sorted."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a whole tensor. Raises ``DataError`` for a name that is not there."""

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Tensor:
        """Elements ``offset`` to ``offset + length`` of the flattened tensor, 1-D on the CPU.

        ``length=None`` reads to the end. Raises ``DataError`` for a missing name, a range outside
        the tensor, or bytes that differ from what was written.
        """


@runtime_checkable
class FiledReader(TensorReader, Protocol):
    """A reader that fetches whole files, so that reading file by file costs least."""

    def files(self) -> list[list[Slice]]:
        """What each file holds, in the order of its bytes; each element is in exactly one file."""


def read_whole(reader: TensorReader, name: str) -> Tensor:
    """One tensor of the global state in its own shape, on the CPU."""
    return reader.read(name).view(reader.shape(name))


def share_of(tensors: Mapping[str, Tensor], rank: int, size: int) -> list[Fragment]:
    """Rank ``rank``'s part of a state that all ``size`` ranks hold in full.

    The tensors are laid end to end in name order and cut into ``size`` equal runs of elements, so
    every element is written once, ranks write equally much, and few tensors are cut.
    """
    total = sum(tensor.numel() for tensor in tensors.values())
    begin, end = total * rank // size, total * (rank + 1) // size
    fragments, position = [], 0
    for name in sorted(tensors):
        tensor = tensors[name]
        first = max(begin - position, 0)
        last = max(min(end - position, tensor.numel()), 0)
        # A tensor without elements is in nobody's run, but its shape has to be written once.
        if first < last or (tensor.numel() == 0 and rank == 0):
            values = tensor.detach().reshape(-1)[first:last]
            fragments.append(Fragment(name, tuple(tensor.shape), first, values))
        position += tensor.numel()
    return fragments


def coverage_fault(shape: tuple[int, ...], runs: Iterable[tuple[int, int]]) -> str | None:
    """What is wrong with ``runs`` (offset, elements), or None if each element is in exactly one."""
    covered = 0
    for offset, elements in sorted(runs):
        if offset > covered:
            return f"elements {covered} to {offset} are missing"
        if offset < covered and elements:
            return f"elements {offset} to {min(covered, offset + elements)} are written twice"
        covered = max(covered, offset + elements)
    if covered != math.prod(shape):
        return f"elements {covered} to {math.prod(shape)} are missing"
    return None
