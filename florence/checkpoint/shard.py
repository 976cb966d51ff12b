"""Fragments as safetensors files; encoded here so that each byte is copied once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from florence.checkpoint.fragment import Fragment
from florence.checkpoint.manifest import Run

SHARD_BYTES = 48 << 20
"""Payload of a shard. A reader fetches and verifies whole shards: more would waste slices' reads,
less would cost requests."""

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """The safetensors name of a dtype. Raises ``ValueError`` for one that cannot be stored."""
    try:
        return _NAMES[dtype]
    except KeyError:
        raise ValueError(f"{dtype} cannot be stored in a checkpoint") from None


def dtype_named(name: str) -> torch.dtype:
    """The dtype with a safetensors name. Raises ``KeyError``."""
    return _DTYPES[name]


def packed(fragments: Iterable[Fragment], capacity: int) -> Iterator[list[Fragment]]:
    """The fragments in groups of at most ``capacity`` bytes, cut where a group is full."""
    group: list[Fragment] = []
    room = capacity
    for fragment in fragments:
        rest = fragment
        while (size := rest.values.nbytes) > room:
            elements = room // rest.values.element_size()
            if elements:
                group.append(_part(rest, 0, elements))
                rest = _part(rest, elements, rest.values.numel())
            yield group
            group, room = [], capacity
        group.append(rest)
        room -= size
    if group:
        yield group


def encode(name: str, fragments: Sequence[Fragment]) -> tuple[bytes, list[tuple[Fragment, Run]]]:
    """A safetensors file called ``name``, and where each fragment lies in it.

    Tensors are named ``<fragment>@<offset>``. Wide dtypes come first, which aligns all of them.
    """
    ordered = sorted(fragments, key=lambda fragment: -fragment.values.element_size())
    table: dict[str, object] = {}
    position = 0
    for fragment in ordered:
        end = position + fragment.values.nbytes
        table[f"{fragment.name}@{fragment.offset}"] = {
            "dtype": dtype_name(fragment.values.dtype),
            "shape": [fragment.values.numel()],
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    body = b"".join(
        [len(header).to_bytes(8, "little"), header, *(_bytes_of(f.values) for f in ordered)]
    )
    return body, list(zip(ordered, _runs(name, ordered, 8 + len(header)), strict=True))


def decode(body: bytearray, run: Run, dtype: torch.dtype) -> Tensor:
    """One run of a shard, 1-D, sharing the shard's memory."""
    if run.elements == 0:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(body, dtype=dtype, count=run.elements, offset=run.begin)


def _runs(name: str, fragments: Sequence[Fragment], begin: int) -> Iterator[Run]:
    for fragment in fragments:
        elements = fragment.values.numel()
        yield Run(file=name, begin=begin, offset=fragment.offset, elements=elements)
        begin += fragment.values.nbytes


def _part(fragment: Fragment, first: int, last: int) -> Fragment:
    values = fragment.values[first:last]
    return Fragment(fragment.name, fragment.shape, fragment.offset + first, values)


def _bytes_of(values: Tensor) -> memoryview:
    return values.contiguous().view(torch.uint8).numpy().data
