from __future__ import annotations

import math

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from florence.checkpoint import Fragment
from florence.checkpoint.shard import decode, dtype_name, dtype_named, encode, packed

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
FRAGMENTS = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.integers(0, 40), st.integers(0, 9)), max_size=8
).map(
    lambda drawn: [
        Fragment(f"t{i}", (100,), offset, _values(dtype, elements))
        for i, (dtype, elements, offset) in enumerate(drawn)
    ]
)


def _values(dtype: torch.dtype, elements: int) -> torch.Tensor:
    return torch.randint(0, 2 if dtype == torch.bool else 100, (elements,)).to(dtype)


@settings(deadline=None)
@given(FRAGMENTS)
def test_files_are_safetensors_and_runs_say_where(fragments: list[Fragment]) -> None:
    body, placed = encode("name", fragments)
    library = safetensors.torch.load(body)
    assert set(library) == {f"{f.name}@{f.offset}" for f in fragments}
    assert {id(f) for f, _ in placed} == {id(f) for f in fragments}
    for fragment, run in placed:
        assert (run.file, run.offset) == ("name", fragment.offset)
        ours = decode(bytearray(body), run, fragment.values.dtype)
        assert torch.equal(ours, fragment.values)
        assert torch.equal(library[f"{fragment.name}@{fragment.offset}"], fragment.values)
        assert run.begin % fragment.values.element_size() == 0


@settings(deadline=None)
@given(FRAGMENTS, st.integers(8, 200))
def test_groups_fit_and_lose_nothing(fragments: list[Fragment], capacity: int) -> None:
    groups = list(packed(fragments, capacity))
    assert all(sum(f.values.nbytes for f in group) <= capacity for group in groups)
    for fragment in fragments:
        parts = [f for group in groups for f in group if f.name == fragment.name]
        offsets = [part.offset for part in parts]
        expected = [
            fragment.offset + sum(p.values.numel() for p in parts[:i]) for i in range(len(parts))
        ]
        assert offsets == expected
        assert torch.equal(torch.cat([part.values for part in parts]), fragment.values)
    total = sum(f.values.nbytes for f in fragments)
    # A cut wastes less than one element, so groups are full but for that.
    assert len(groups) <= max(math.ceil(total / (capacity - 7)) if capacity > 7 else 0, 1)


def test_all_storable_types_have_a_name_and_others_are_refused() -> None:
    others = [torch.uint16, torch.uint32, torch.uint64, torch.complex64]
    others += [torch.float8_e4m3fn, torch.float8_e5m2]
    for dtype in [*DTYPES, *others]:
        assert dtype_named(dtype_name(dtype)) is dtype
    with pytest.raises(ValueError, match="complex128 cannot be stored"):
        dtype_name(torch.complex128)
