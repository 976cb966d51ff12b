"""Run a function in a process of its own that may die, be killed, or be limited."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from tests.gang import _CONTEXT

# What children import too, so that the server they are forked from has it already.
_CONTEXT.set_forkserver_preload(
    ["torch", "torch.distributed", "tests.gang", "pytest", "boto3", "florence.checkpoint"]
)


def start_child(function: Callable[..., Any], *args: Any) -> tuple[Any, Connection]:
    """A process that calls ``function(*args)``, and the pipe its answer comes through.

    ``function`` must be defined at the top level of an importable module.
    """
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child_main, args=(function, args, theirs), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def run_child(
    function: Callable[..., Any], *args: Any, answer: bool = False, timeout: float = 120
) -> Any:
    """What ``function(*args)`` returned with ``answer``, else the process's exit code."""
    process, pipe = start_child(function, *args)
    try:
        if answer:
            return answer_of(pipe, timeout)
        process.join(timeout)
        return process.exitcode
    finally:
        if process.is_alive():
            process.kill()


def answer_of(pipe: Connection, timeout: float = 120) -> Any:
    """What the function returned; ``RuntimeError`` with the traceback if it raised."""
    if not pipe.poll(timeout):
        raise TimeoutError(f"no answer within {timeout} s")
    ok, value = pipe.recv()
    if not ok:
        raise RuntimeError(f"the child failed:\n{value}")
    return value


def _child_main(function: Callable[..., Any], args: tuple[Any, ...], pipe: Connection) -> None:
    import torch

    torch.set_num_threads(1)
    try:
        pipe.send((True, function(*args)))
    except BaseException:
        pipe.send((False, traceback.format_exc()))
