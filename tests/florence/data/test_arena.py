"""What is laid into an arena comes back, whether it had room or not."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from florence.data.arena import Arena, Block, room_for

DTYPES = st.one_of(
    npst.boolean_dtypes(),
    npst.integer_dtypes(endianness="="),
    npst.unsigned_integer_dtypes(endianness="="),
    npst.floating_dtypes(endianness="="),
)
ARRAYS = npst.arrays(DTYPES, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


def arena_of(size: int) -> Arena:
    # Filled with noise: what comes back must be what was put, not what was there.
    return Arena(np.frombuffer(np.random.default_rng(0).bytes(size), np.uint8).copy())


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )


@given(st.lists(ARRAYS, max_size=8), st.integers(0, 2_000))
def test_arrays_come_back_in_another_process(arrays: list[NDArray[Any]], size: int) -> None:
    arena = arena_of(size)
    stored = [arena.put(array) for array in arrays]
    # What is handed over is pickled; the memory is shared.
    received = pickle.loads(pickle.dumps(stored))
    other = Arena(arena.memory)
    for array, block in zip(arrays, received, strict=True):
        assert same(other.array(block), array)
    inside = [block for block in stored if isinstance(block, Block)]
    spans = sorted((b.offset, b.offset + arena.array(b).nbytes) for b in inside)
    assert all(b.offset % 64 == 0 for b in inside)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(end <= size for _, end in spans)


@given(st.lists(ARRAYS, max_size=8))
def test_what_room_was_made_for_fits(arrays: list[NDArray[Any]]) -> None:
    arena = arena_of(room_for(*(array.nbytes for array in arrays)))
    assert all(isinstance(arena.put(array), Block) for array in arrays)


@given(npst.arrays(DTYPES, (3, 2, 4)), st.integers(0, 400))
def test_rows_are_stacked(rows: NDArray[Any], size: int) -> None:
    arena = arena_of(size)
    assert same(arena.array(arena.stack(list(rows))), rows)


def test_an_array_in_any_layout_is_put_as_it_reads() -> None:
    arena = arena_of(4_096)
    array = np.arange(24).reshape(2, 3, 4)
    for view in (array.T, array[:, ::-1], array[:, :, 1::2], np.asfortranarray(array)):
        assert same(arena.array(arena.put(view)), np.ascontiguousarray(view))


def test_what_lies_in_the_arena_is_not_copied_again() -> None:
    arena = arena_of(256)
    array, stored = arena.empty((4, 4), np.float32)
    array[...] = 7
    assert isinstance(stored, Block)
    found = arena.array(stored)
    assert np.shares_memory(found, arena.memory)
    assert same(found, np.full((4, 4), 7, np.float32))


def test_a_full_arena_still_has_room_for_what_is_smaller() -> None:
    arena = arena_of(128)
    assert isinstance(arena.put(np.zeros(65, np.uint8)), Block)
    assert not isinstance(arena.put(np.zeros(1, np.uint8)), Block)
    fresh = arena_of(128)
    assert not isinstance(fresh.put(np.zeros(129, np.uint8)), Block)
    assert isinstance(fresh.put(np.zeros(128, np.uint8)), Block), "a refusal takes no room"


def test_objects_are_refused() -> None:
    """They are pointers, which mean nothing in another process."""
    with pytest.raises(TypeError):
        arena_of(256).put(np.array([object()]))
