"""Joining, alone and together, and what the collectives return."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel

from florence.distributed.gather import gather_rows
from florence.distributed.world import World, collective_errors, join
from florence.errors import (
    ConfigurationError,
    DataError,
    FlorenceError,
    LostPeersError,
    MissingExtraError,
)
from florence.storage import MissingKeyError
from tests.child import run_child
from tests.gang import exit_codes_of, free_port, run_gang


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
    with pytest.raises(LostPeersError, match=f"127.0.0.1:{port}"):
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
        "sum": world.all_reduce_sum(torch.tensor([rank + 1])).tolist(),
        "max": world.all_reduce_max(torch.tensor([rank + 1])).tolist(),
        "first": world.on_first(lambda: f"by {rank}"),
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
            "sum": [6],
            "max": [3],
            "first": "by 0",
            "gathered": [1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
            "grad": [111.0, 111.0],
        }


def test_a_function_of_rank_0_alone_needs_no_others() -> None:
    world = World()
    assert world.on_first(lambda: 7) == 7
    with pytest.raises(KeyError):
        world.on_first(lambda: {}["absent"])
    world.raise_alike(None)
    with pytest.raises(DataError, match="gone"):
        world.raise_alike(DataError("gone"))


def _fail_on_first() -> list[str]:
    world = join(60.0)
    raised = []
    for error in (MissingKeyError("/a/b"), MissingExtraError("mlflow", "jobs"), ValueError("bug")):

        def fail(error: Exception = error) -> None:
            raise error

        try:
            world.on_first(fail)
        except Exception as caught:
            raised.append(f"{type(caught).__name__}: {caught}")
    try:
        world.raise_alike(DataError("rank 1's disk") if world.rank == 1 else None)
    except DataError as caught:
        raised.append(str(caught))
    return raised


def test_what_rank_0_raises_every_rank_raises() -> None:
    first, second = run_gang(_fail_on_first, 2)
    assert first[0] == second[0]
    assert first[0].startswith("MissingKeyError: /a/b does not exist")
    assert first[1] == second[1]
    assert "florence[jobs]" in first[1]
    assert (first[2], second[2]) == (
        "ValueError: bug",
        "LostPeersError: rank 0 failed: ValueError: bug",
    )
    assert first[3] == second[3] == "rank 1's disk"


COLLECTIVES: dict[str, Callable[[World], Any]] = {
    "barrier": World.barrier,
    "mean": lambda world: world.all_reduce_mean(torch.ones(1)),
    "max": lambda world: world.all_reduce_max(torch.ones(1)),
    "gather object": lambda world: world.all_gather_object(1),
    "gather rows": lambda world: gather_rows(torch.ones(2, 1)),
    "broadcast": lambda world: world.broadcast(torch.ones(1), source=1),
    "broadcast object": lambda world: world.broadcast_object(1, source=1),
    "on first": lambda world: world.on_first(lambda: "x" * 1000),
    "backward of DDP": lambda world: _backward_of_ddp(),
}


def _backward_of_ddp() -> None:
    module = DistributedDataParallel(torch.nn.Linear(2, 2))
    _meet()  # the others are lost between the forward and the backward pass
    module(torch.ones(1, 2)).sum().backward()


def _meet() -> None:
    """Wait for rank 1; it goes on into death or silence."""
    dist.monitored_barrier()


def _outlive_rank_1(collective: str, dies: bool) -> None:
    world = join(60.0)
    distributed_c10d._set_pg_timeout(timedelta(seconds=2))
    if world.rank == 1:
        if collective == "backward of DDP":
            DistributedDataParallel(torch.nn.Linear(2, 2))
        _meet()
        if dies:
            os._exit(0)
        threading.Event().wait()  # alive and silent
    if collective != "backward of DDP":
        _meet()
    with pytest.raises(LostPeersError):
        _many_times(COLLECTIVES[collective], world)
    os._exit(7)


@collective_errors("a step")
def _many_times(collective: Callable[[World], Any], world: World) -> None:
    for _ in range(100):  # what is sent to a dead peer may still fit into a buffer
        collective(world)


@pytest.mark.parametrize("dies", [True, False], ids=["dead", "silent"])
@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_rank_that_waits_for_a_lost_one_says_so(collective: str, dies: bool) -> None:
    codes = exit_codes_of(_outlive_rank_1, 2, collective, dies)
    assert codes[0] == 7


class _OtherError(RuntimeError):
    pass


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError("[/a b/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), False),
        (RuntimeError("[/x/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), True),
        (RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 9ms"), True),
        (RuntimeError("[enforce fail at /gloo/transport/tcp/pair.cc:461] 20 vs 16"), False),
        (RuntimeError("ProcessGroupGloo::allgather: invalid tensor size at index 0"), False),
        (_OtherError("[/gloo/transport/tcp/pair.cc:561] Connection closed by peer"), False),
        (dist.DistNetworkError("Broken pipe"), True),
        (dist.DistStoreError("wait timeout after 3000ms"), True),
        (dist.DistBackendError("NCCL error, remote process exited\nncclRemoteError: …"), True),
        (dist.DistBackendError("NCCL communicator was aborted on rank 3."), True),
        (dist.DistBackendError("NCCL error in: x.cpp:1, invalid usage (run with …)"), False),
        (dist.DistBackendError("NCCL error in: x.cpp:1\nncclInvalidArgument: …"), False),
        (dist.DistBackendError("NCCL error in: x.cpp:1, unhandled cuda error (run …)"), False),
        (RuntimeError("NCCL error in a log line that somebody quotes"), False),
        (OSError(104, "Connection reset by peer"), False),
    ],
)
def test_lost_peers_are_told_from_other_faults_by_their_origin(
    error: Exception, lost: bool
) -> None:
    with pytest.raises(LostPeersError if lost else type(error)) as caught, collective_errors("x"):
        raise error
    assert (caught.value is error) is not lost
    assert str(error).splitlines()[0] in str(caught.value)


def test_a_port_that_is_taken_is_this_process_s_own_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, message = run_child(_join_at, taken.getsockname()[1], answer=True)
    assert code == "TransientError", message
    assert "listen" in message


def test_a_variable_that_is_missing_is_a_wrong_configuration() -> None:
    kind, message = run_child(_join_at, None, answer=True)
    assert kind == "ConfigurationError"
    assert "MASTER_PORT" in message


def _join_at(port: int | None) -> tuple[str, str]:
    os.environ.update({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"})
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    try:
        join(2.0)
    except FlorenceError as error:
        return type(error).__name__, str(error)
    return "joined", ""
