"""Work that one rank does while the others wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from florence.distributed.world import World
from florence.errors import DataError, StoppedError
from florence.stages.context import StageContext
from florence.stages.long_work import computed_by_first
from tests.florence.stages.test_train import context
from tests.gang import run_gang


def _around(folder: Path) -> StageContext:
    rank, size = dist.get_rank(), dist.get_world_size()
    return context(folder, world=World(rank, size, rank, size))


def _value(folder: Path) -> tuple[int, int]:
    calls = []

    def work(beat: Callable[[], None]) -> int:
        for _ in range(3):
            beat()
        calls.append(1)
        return 42

    return computed_by_first(_around(folder), work, then="again"), len(calls)


def _failing(folder: Path) -> str:
    def work(beat: Callable[[], None]) -> int:
        beat()
        raise DataError("the data is broken")

    with pytest.raises(DataError) as told:
        computed_by_first(_around(folder), work, then="again")
    return str(told.value)


def _stopped(folder: Path) -> str:
    around = _around(folder)
    if dist.get_rank() == 1:  # not the one that works
        around.stop.request()

    def work(beat: Callable[[], None]) -> int:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            beat()
        return 0

    with pytest.raises(StoppedError) as told:
        computed_by_first(around, work, then="it goes on next time")
    return str(told.value)


def test_every_rank_gets_what_the_first_computed(tmp_path: Path) -> None:
    assert run_gang(_value, 2, tmp_path) == [(42, 1), (42, 0)]


def test_every_rank_raises_what_the_first_raised(tmp_path: Path) -> None:
    assert run_gang(_failing, 2, tmp_path) == ["the data is broken"] * 2


def test_a_stop_of_any_rank_ends_the_work_on_all(tmp_path: Path) -> None:
    (first, second) = run_gang(_stopped, 2, tmp_path)
    assert first == second
    assert first.endswith("it goes on next time")


def test_alone_it_is_a_call(tmp_path: Path) -> None:
    around = context(tmp_path)
    assert computed_by_first(around, lambda beat: 7, then="") == 7
    around.stop.request()
    with pytest.raises(StoppedError):
        computed_by_first(around, lambda beat: beat(), then="")
