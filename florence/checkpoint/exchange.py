"""How the ranks of one gang tell each other what they saved, and share one fate."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

import torch
import torch.distributed as dist

from florence.distributed.lost_peers import collective_errors
from florence.errors import FlorenceError, TransientError

T = TypeVar("T")


class Exchange(Protocol):
    """Objects between ranks. All ranks call the same methods in the same order."""

    rank: int
    size: int

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value by rank, on rank 0; None elsewhere."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""


class SingleProcess:
    """The exchange of a gang of one."""

    rank = 0
    size = 1

    def gather(self, value: Any) -> list[Any]:
        """The value alone."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """The value itself."""
        return value


class GlooExchange:
    """An exchange over its own gloo group, so that a background thread never meets training's.

    Made on all ranks at the same point, after ``torch.distributed`` was initialised. A rank that is
    silent for ``timeout_s`` seconds fails the exchange with ``LostPeersError``.
    """

    def __init__(self, timeout_s: float = 1800.0) -> None:
        self.rank = dist.get_rank()
        self.size = dist.get_world_size()
        with collective_errors("a checkpoint"):
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
        self._group = cast(dist.ProcessGroup, group)  # every rank is a member of it

    def gather(self, value: Any) -> list[Any] | None:
        """Every rank's value by rank, on rank 0; None elsewhere."""
        values: list[Any] | None = [None] * self.size if self.rank == 0 else None
        with collective_errors("a checkpoint"):
            dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        box = [value]
        with collective_errors("a checkpoint"):
            dist.broadcast_object_list(box, 0, group=self._group, device=torch.device("cpu"))
        return box[0]


def from_rank_zero(exchange: Exchange, task: str, function: Callable[[], T]) -> T:
    """What ``function`` returns on rank 0, on every rank; what it raises there, all ranks raise.

    Errors other than ours become ``TransientError``; ``task`` tells what was being done, and where.
    """
    outcome = _attempted(task, function) if exchange.rank == 0 else None
    shared: T | _Raised = exchange.broadcast(outcome)
    return _returned(shared)


def from_every_rank(exchange: Exchange, task: str, function: Callable[[], T]) -> list[T] | None:
    """What ``function`` returns on each rank, on rank 0; what it raises on any, all ranks raise."""
    outcomes = exchange.gather(_attempted(task, function))
    failed = next((o for o in outcomes if isinstance(o, _Raised)), None) if outcomes else None
    _returned(exchange.broadcast(failed))
    return outcomes


class _Raised:
    """An error on its way to the other ranks."""

    def __init__(self, error: FlorenceError) -> None:
        self.error = error


def _attempted(task: str, function: Callable[[], T]) -> T | _Raised:
    try:
        return function()
    except FlorenceError as error:
        return _Raised(error)
    except Exception as error:  # a rank that stays silent would hang the others
        return _Raised(unexpected(task, error))


def _returned(outcome: T | _Raised) -> T:
    if isinstance(outcome, _Raised):
        raise outcome.error
    return outcome


def unexpected(task: str, error: BaseException) -> TransientError:
    """One line about an error nobody foresaw: the same attempt may succeed later."""
    reason = str(error).partition("\n")[0][:200]
    return TransientError(f"{task} failed ({type(error).__name__}: {reason}): try again")
