"""The processes that train together: who this one is, and how it talks to the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist

from florence.distributed.lost_peers import collective_errors, first_line, is_lost_peer
from florence.errors import ConfigurationError, FlorenceError, LostPeersError, TransientError

__all__ = ["World", "collective_errors", "join", "leave"]

ObjectT = TypeVar("ObjectT")


@dataclass(frozen=True)
class World:
    """This process among ``size``; with size 1 nothing needs torch.distributed.

    Collective methods must be called by every rank in the same order. Each raises
    ``LostPeersError`` when another rank is gone or silent for longer than :func:`join` allows.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that logs and reports."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            with collective_errors():
                dist.barrier()

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise mean over ranks, a new tensor of the same shape."""
        total = self.all_reduce_sum(values)
        return total.div_(self.size) if self.size > 1 else total

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise sum over ranks, a new tensor of the same shape."""
        return self._all_reduce(values, dist.ReduceOp.SUM)

    def all_reduce_max(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise maximum over ranks, a new tensor of the same shape."""
        return self._all_reduce(values, dist.ReduceOp.MAX)

    def broadcast(self, values: torch.Tensor, source: int = 0) -> None:
        """Overwrite ``values`` with those of rank ``source``; same shape and dtype on every rank.

        With NCCL the tensor has to be on :attr:`device`.
        """
        if self.size > 1:
            with collective_errors():
                dist.broadcast(values, src=source)

    def broadcast_object(self, value: ObjectT, source: int = 0) -> ObjectT:
        """Rank ``source``'s value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        with collective_errors():
            dist.broadcast_object_list(box, src=source)
        return box[0]

    def all_gather_object(self, value: ObjectT) -> list[ObjectT]:
        """Every rank's value by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[ObjectT] = [value] * self.size
        with collective_errors():
            dist.all_gather_object(values, value)
        return values

    def on_first(self, function: Callable[[], ObjectT]) -> ObjectT:
        """What ``function`` returns on rank 0, on every rank; it runs on rank 0 only.

        A ``FlorenceError`` that it raises, every rank raises. Any other error is rank 0's own: it
        raises it, and the others ``LostPeersError``, so that none waits for a rank that is gone.
        """
        if self.size == 1:
            return function()
        outcome = _attempted(function) if self.is_first else None
        told = self.broadcast_object(outcome.told() if outcome else None)
        assert told is not None  # rank 0's is none
        if told.error is not None:
            raise (outcome and outcome.error) or told.error
        return cast(ObjectT, told.value)

    def raise_alike(self, error: FlorenceError | None) -> None:
        """Raise the first rank's error that has one, on every rank; nothing if none has one."""
        first = next((e for e in self.all_gather_object(error) if e is not None), None)
        if first is not None:
            raise first

    def _all_reduce(self, values: torch.Tensor, operation: dist.ReduceOp.RedOpType) -> torch.Tensor:
        values = values.detach().clone()
        if self.size > 1:
            with collective_errors():
                dist.all_reduce(values, op=operation)
        return values


@dataclass(frozen=True)
class _Outcome:
    """What a function returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None

    def told(self) -> _Outcome:
        """What the other ranks hear: an error of ours as it is, any other as a lost rank."""
        if self.error is None or isinstance(self.error, FlorenceError):
            return self
        kind, reason = type(self.error).__name__, first_line(self.error)
        return _Outcome(error=LostPeersError(f"rank 0 failed: {kind}: {reason}"))


def _attempted(function: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(value=function())
    except Exception as error:  # a rank that stays silent would hang the others
        return _Outcome(error=error)


def join(timeout_s: float, environment: Mapping[str, str] = os.environ) -> World:
    """Join the processes that torchrun started; without torchrun's variables, be alone.

    NCCL serves CUDA tensors and gloo CPU tensors. A collective that takes longer than
    ``timeout_s`` seconds fails the process, so that a lost peer does not hang it.

    Raises:
        ConfigurationError: more processes than CUDA devices on this machine, or a bad variable.
        LostPeersError: the other processes did not come within ``timeout_s``.
        TransientError: this process could not take part, such as for a port in use.
    """
    if "WORLD_SIZE" not in environment or "RANK" not in environment:
        return World(device=_device(0))
    rank = _integer(environment, "RANK")
    size = _integer(environment, "WORLD_SIZE")
    local_rank = _integer(environment, "LOCAL_RANK", rank)
    local_size = _integer(environment, "LOCAL_WORLD_SIZE", size)
    device = _device(local_rank)
    if size > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        try:
            dist.init_process_group(
                backend, rank=rank, world_size=size, timeout=timedelta(seconds=timeout_s)
            )
        except (RuntimeError, ValueError) as error:
            address = f"{environment.get('MASTER_ADDR')}:{environment.get('MASTER_PORT')}"
            raise _not_joined(error, f"rank {rank} of {size}", address) from error
    return World(rank, size, local_rank, local_size, device)


def _not_joined(error: RuntimeError | ValueError, who: str, address: str) -> FlorenceError:
    reason = first_line(error)
    if isinstance(error, ValueError):
        return ConfigurationError(
            f"{who} cannot join the others: {reason}: start the processes with torchrun"
        )
    # Who cannot listen is itself the cause; who waits for the others is not.
    alone = "failed to listen" in reason or not is_lost_peer(error)
    kind = TransientError if alone else LostPeersError
    return kind(
        f"{who} could not join the others at {address}: {reason}; "
        "check that every worker started and reaches that address"
    )


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _integer(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = environment.get(name, "" if default is None else str(default))
    try:
        return int(text)
    except ValueError:
        raise ConfigurationError(
            f"environment variable {name}='{text}' is not a number: "
            "start the processes with torchrun"
        ) from None


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise ConfigurationError(
            f"local rank {local_rank} has no GPU, this machine has {torch.cuda.device_count()}: "
            "start at most one process per GPU"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
