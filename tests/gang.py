"""Run one function in several real processes joined by gloo, as torchrun would.

Importing torch costs seconds, so the processes are forked from one server that imported it once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch.distributed", "tests.gang"])


def free_port() -> int:
    """A TCP port on the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_gang(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 300
) -> list[Any]:
    """Call ``function(*args)`` on every rank of a gloo group and return the results by rank.

    ``function`` must be defined at the top level of an importable module (a test module is one).
    A rank that raises fails the call with that rank's traceback.
    """
    port = free_port()
    pipes, processes = [], []
    for rank in range(world_size):
        ours, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_rank_main, args=(function, args, rank, world_size, port, theirs), daemon=True
        )
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    try:
        return [_result_of(rank, pipe, timeout) for rank, pipe in enumerate(pipes)]
    finally:
        for process in processes:
            process.join(timeout=5)
            if process.is_alive():
                process.kill()


def exit_codes_of(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60
) -> list[int | None]:
    """Like :func:`run_gang` for ranks that die: the exit codes by rank, None where one had to be
    killed because it still ran after rank 0 had ended."""
    port = free_port()
    processes = []
    for rank in range(world_size):
        _, theirs = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(
            target=_rank_main, args=(function, args, rank, world_size, port, theirs), daemon=True
        )
        process.start()
        processes.append(process)
    processes[0].join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes


def _result_of(rank: int, pipe: Connection, timeout: float) -> Any:
    if not pipe.poll(timeout):
        raise TimeoutError(f"rank {rank} did not answer within {timeout} s")
    try:
        ok, value = pipe.recv()
    except EOFError:
        raise RuntimeError(f"rank {rank} died without an answer") from None
    if not ok:
        raise RuntimeError(f"rank {rank} failed:\n{value}")
    return value


def _rank_main(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    rank: int,
    size: int,
    port: int,
    pipe: Connection,
) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", rank=rank, world_size=size)
        result = function(*args)
        pipe.send((True, result))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        pipe.send((False, traceback.format_exc()))
