"""Work of minutes that one rank does while the others wait, without outwaiting a collective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from florence.distributed.lost_peers import first_line
from florence.errors import FlorenceError, LostPeersError, StoppedError
from florence.stages.context import StageContext
from florence.stages.evaluation import agreed_stop

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome:
    value: Any = None
    error: FlorenceError | None = None


def computed_by_first(
    context: StageContext, work: Callable[[Callable[[], None]], T], *, then: str
) -> T:
    """What ``work`` returns on rank 0, on every rank; collective.

    Args:
        context: the ranks, and the request to stop.
        work: called on rank 0 with a function that it must call more often than a collective may
            last (minutes): the others hear it, and all stop there if any was asked to.
        then: what happens to the work at the next attempt, for the message when stopped.

    Raises:
        StoppedError: any rank was asked to stop.
        FlorenceError: what ``work`` raised, on every rank.
    """
    world, stop = context.world, agreed_stop(context, then)
    if world.size == 1:
        return work(stop)
    if not world.is_first:
        return cast(T, _awaited(context, stop))

    def beat() -> None:
        world.broadcast_object(None)
        stop()

    try:
        value = work(beat)
    except (StoppedError, LostPeersError):
        raise  # the others know
    except FlorenceError as error:
        world.broadcast_object(_Outcome(error=error))
        raise
    except Exception as error:
        reason = f"rank 0 failed: {type(error).__name__}: {first_line(error)}"
        world.broadcast_object(_Outcome(error=LostPeersError(reason)))
        raise
    world.broadcast_object(_Outcome(value))
    return value


def _awaited(context: StageContext, stop: Callable[[], None]) -> Any:
    while True:
        outcome: _Outcome | None = context.world.broadcast_object(None)
        if outcome is None:
            stop()
        elif outcome.error is not None:
            raise outcome.error
        else:
            return outcome.value
