"""Joining, alone and together, and what the collectives return."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from florence.distributed.gather import gather_rows
from florence.distributed.world import World, join
from florence.errors import ConfigurationError, DataError, TryAgainError
from tests.gang import free_port, run_gang


def test_without_torchrun_one_is_alone() -> None:
    world = join(1.0, {})
    assert (world.rank, world.size, world.is_first) == (0, 1, True)
    assert world.all_gather_object("x") == ["x"]
    assert world.broadcast_object("y") == "y"
    assert torch.equal(world.all_reduce_mean(torch.tensor([2.0])), torch.tensor([2.0]))
    world.barrier()


def test_a_mean_is_a_copy() -> None:
    value = torch.tensor([2.0])
    World().all_reduce_mean(value).zero_()
    assert float(value) == 2.0


def test_a_variable_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigurationError, match="WORLD_SIZE='two'"):
        join(1.0, {"RANK": "0", "WORLD_SIZE": "two"})


def test_peers_that_do_not_come_are_a_reason_to_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    port = str(free_port())
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TryAgainError, match=f"127.0.0.1:{port}"):
        join(1.0, environment)


def _talk() -> dict[str, Any]:
    world = join(60.0)
    rank = world.rank
    x = torch.full((2, 1), float(rank + 1), requires_grad=True)
    gathered = gather_rows(x)
    # Rank r weighs the gathered rows by 10^r: the sum over ranks is 111 for each row.
    (gathered * 10**rank).sum().backward()
    assert x.grad is not None
    world.barrier()
    return {
        "rank": rank,
        "size": world.size,
        "objects": world.all_gather_object({"rank": rank}),
        "broadcast": world.broadcast_object(f"from {rank}", source=1),
        "mean": world.all_reduce_mean(torch.tensor([float(rank)])).tolist(),
        "gathered": gathered.detach().flatten().tolist(),
        "grad": x.grad.flatten().tolist(),
    }


def test_three_processes_talk() -> None:
    for rank, told in enumerate(run_gang(_talk, 3)):
        assert told == {
            "rank": rank,
            "size": 3,
            "objects": [{"rank": 0}, {"rank": 1}, {"rank": 2}],
            "broadcast": "from 1",
            "mean": [1.0],
            "gathered": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
            "grad": [111.0, 111.0],
        }


class OddError(DataError):
    """An error whose constructor wants other arguments than its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def _share() -> dict[str, Any]:
    world = join(60.0)
    called = []

    def make() -> str:
        called.append(world.rank)
        return f"made by {world.rank}"

    def fail() -> str:
        called.append(world.rank)
        raise OddError("one", "two")

    shared = world.share(make)
    try:
        world.share(fail)
    except DataError as error:
        raised = [type(error).__name__, str(error)]
    return {"shared": shared, "raised": raised, "called": called, "after": world.share(make)}


def test_one_rank_computes_for_all_and_all_fail_alike() -> None:
    answers = run_gang(_share, 2)
    assert [a["called"] for a in answers] == [[0, 0, 0], []]
    for answer in answers:
        assert answer["shared"] == answer["after"] == "made by 0"
        assert answer["raised"] == ["OddError", "one and two"]


def test_alone_one_shares_with_nobody() -> None:
    error = OddError("one", "two")

    def fail() -> None:
        raise error

    assert World().share(lambda: 3) == 3
    with pytest.raises(OddError) as raised:
        World().share(fail)
    assert raised.value is error
