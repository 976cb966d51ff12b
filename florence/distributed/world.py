"""The processes that train together: who this one is, and how it talks to the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from florence.errors import ConfigurationError, TryAgainError

ObjectT = TypeVar("ObjectT")


@dataclass(frozen=True)
class World:
    """This process among ``size``; with size 1 nothing needs torch.distributed.

    Collective methods must be called by every rank in the same order.
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
            dist.barrier()

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """The element-wise mean over ranks, a new tensor of the same shape."""
        values = values.detach().clone()
        if self.size > 1:
            dist.all_reduce(values, op=dist.ReduceOp.SUM)
            values /= self.size
        return values

    def broadcast_object(self, value: ObjectT, source: int = 0) -> ObjectT:
        """Rank ``source``'s value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=source)
        return box[0]

    def share(self, make: Callable[[], ObjectT]) -> ObjectT:
        """What ``make`` returns on rank 0, where alone it is called, on every rank.

        An error that it raises there is raised on every rank, with its class and message.
        """
        if self.size == 1:
            return make()
        value: ObjectT | None = None
        error: Exception | None = None
        if self.is_first:
            try:
                value = make()
            except Exception as raised:
                error = raised
        value, kind, message = self.broadcast_object(
            (value, type(error) if error else None, str(error))
        )
        if error is not None:
            raise error
        if kind is not None:
            raise _error(kind, message)
        return cast(ObjectT, value)

    def all_gather_object(self, value: ObjectT) -> list[ObjectT]:
        """Every rank's value by rank, on every rank."""
        if self.size == 1:
            return [value]
        values: list[ObjectT] = [value] * self.size
        dist.all_gather_object(values, value)
        return values


def join(timeout_s: float, environment: Mapping[str, str] = os.environ) -> World:
    """Join the processes that torchrun started; without torchrun's variables, be alone.

    NCCL serves CUDA tensors and gloo CPU tensors. A collective that takes longer than
    ``timeout_s`` seconds fails the process, so that a lost peer does not hang it.

    Raises:
        ConfigurationError: more processes than CUDA devices on this machine, or a bad variable.
        TryAgainError: the other processes did not come within ``timeout_s``.
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
            raise TryAgainError(
                f"rank {rank} of {size} could not join the others at {address}: {error}; "
                "check that every worker started and reaches that address"
            ) from error
    return World(rank, size, local_rank, local_size, device)


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _error(kind: type[Exception], message: str) -> Exception:
    """Another rank's error. Not by its constructor, which may want other arguments."""
    error = kind.__new__(kind, message)
    error.args = (message,)
    return error


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
