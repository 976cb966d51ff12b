"""What a stage's time went into: every second of it under one word, and none left over.

A pure function of the times that the attempts' records have and of what rank 0 told of its own
time. A stage's wall time runs from its first attempt's start to its last one's end, to where it
failed without an attempt, or to now. It
is cut at the moments below, each no earlier than the one before it, and every piece has one name:

    end of the attempt before … start         suspended while nobody wanted it to run, else restart
    start … admission                         queued
    admission … all pods run                  starting; restart after the first attempt
    all pods run … its last progress          as rank 0 told: checkpoint, data stall, productive,
                                              recompute; what it did not count is its start
    its last progress … its end, or now       productive where it succeeded or goes on, stalled
                                              where that ended it, suspended on request, else
                                              restart: until it was noticed, and its pods were gone

Steps of a failed attempt that no commit holds are recompute: they are done again, or were in vain.
Without rank 0's count, what lies before the last commit is productive and what follows recompute.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from florence.config.base import setting
from florence_operator.api.failure import Cause
from florence_operator.api.observed import Observed
from florence_operator.api.times import timestamp, unix

if TYPE_CHECKING:
    from florence_operator.api.status import Attempt, StageStatus

_UNMOVED = (Cause.STALLED, Cause.NOT_HEARD)


class Goodput(Observed):
    """What time went into; the parts add up to all of it."""

    productive: int = setting(
        0, description="steps that count, evaluation and export", unit="seconds", ge=0
    )
    data_stall: int = setting(0, description="waiting for data", unit="seconds", ge=0)
    checkpoint: int = setting(
        0, description="waiting for checkpoints to be saved", unit="seconds", ge=0
    )
    recompute: int = setting(
        0, description="steps of failed attempts that no commit holds", unit="seconds", ge=0
    )
    starting: int = setting(
        0, description="from the first admission to the first step", unit="seconds", ge=0
    )
    restart: int = setting(
        0,
        description="from a failure to the next attempt's first step, but for its queue",
        unit="seconds",
        ge=0,
    )
    stalled: int = setting(
        0, description="no progress, until the attempt was replaced", unit="seconds", ge=0
    )
    queued: int = setting(0, description="waiting for quota", unit="seconds", ge=0)
    suspended: int = setting(
        0,
        description="suspended, or failed until somebody retried it",
        unit="seconds",
        ge=0,
    )
    until: str | None = setting(None, description="up to when it was counted")

    @property
    def seconds(self) -> dict[str, int]:
        """The parts by name."""
        return {name: getattr(self, name) for name in CATEGORIES}

    @property
    def total(self) -> int:
        """All of the time, in seconds."""
        return sum(self.seconds.values())

    @property
    def fraction(self) -> float | None:
        """The productive part of the time for which resources were held; None of no time."""
        held = self.total - self.queued - self.suspended
        return self.productive / held if held > 0 else None


CATEGORIES = tuple(name for name in Goodput.model_fields if name != "until")


def summed(parts: Iterable[Goodput]) -> Goodput:
    """The sum of several; ``until`` is the newest of theirs."""
    parts = tuple(parts)
    seconds = {name: sum(getattr(part, name) for part in parts) for name in CATEGORIES}
    moments = [part.until for part in parts if part.until is not None]
    return Goodput(**seconds, until=max(moments, default=None))


def stage_goodput(stage: StageStatus, now: float) -> Goodput | None:
    """What a stage's time went into until now, or its end; None before its first attempt.

    Args:
        now: Unix seconds; full seconds count.
    """
    if not stage.attempts:
        return None
    now = _moment(timestamp(now))
    parts, end = [], None
    if stage.dropped is not None:
        parts.append(stage.dropped.goodput)
        end = unix(stage.dropped.completion_time)
    for attempt in stage.attempts:
        parts.append(attempt_goodput(attempt, end, now))
        end = unix(attempt.completion_time)
    until = now if end is None else end
    if end is not None:
        since = _moment(stage.suspended_time, end)
        until = max(end, since if stage.state.terminal else now)
        pause = max(0.0, until - since) if stage.suspended_time is not None else 0.0
        parts.append(_between(end, until, stage.suspended_seconds + pause))
    return summed(parts).model_copy(update={"until": timestamp(until)})


def attempt_goodput(attempt: Attempt, before: float | None, now: float) -> Goodput:
    """What the time since the end of the attempt before went into, until this one's end or now.

    Args:
        before: when that one ended (Unix seconds); None for the first attempt.
    """
    start = _moment(attempt.start_time, now)
    begun = start if before is None else before
    end = max(begun, _moment(attempt.completion_time, now))
    start = _within(start, begun, end)
    on_cluster = attempt.job_ref is not None
    admitted = _within(_moment(attempt.admission_time, end), start, end) if on_cluster else start
    ready = _within(_moment(attempt.pods_ready_time, end), admitted, end) if on_cluster else start
    told = _within(_last_word(attempt, ready, end), ready, end)
    first = before is None
    parts = [
        _between(begun, start, attempt.suspended_seconds),
        Goodput(queued=round(admitted - start)),
        _start(round(ready - admitted), first=first),
        _ran(attempt, ready, round(told - ready), first=first),
        _tail(attempt, round(end - told), first=first),
    ]
    return summed(parts)


def _moment(stamp: str | None, otherwise: float = 0.0) -> float:
    found = unix(stamp)
    return float(round(otherwise if found is None else found))


def _within(moment: float, earliest: float, latest: float) -> float:
    return min(max(moment, earliest), latest)


def _last_word(attempt: Attempt, ready: float, end: float) -> float:
    """When it last got further; where nobody told, its end when it is known to have trained."""
    if attempt.last_progress_time is not None:
        return _moment(attempt.last_progress_time)
    return end if attempt.step or attempt.seconds is not None else ready


def _between(end: float, start: float, pause: float) -> Goodput:
    """What the time between two attempts went into."""
    gap = round(start - end)
    suspended = min(gap, round(pause))
    return Goodput(suspended=suspended, restart=gap - suspended)


def _start(seconds: int, *, first: bool) -> Goodput:
    return Goodput(starting=seconds) if first else Goodput(restart=seconds)


def _failed(attempt: Attempt) -> bool:
    return attempt.cause is not None


def _ran(attempt: Attempt, ready: float, left: int, *, first: bool) -> Goodput:
    """What the time went into from the pods' running to the last progress."""
    counted = attempt.seconds
    if counted is None and not attempt.step:
        return _start(left, first=first)
    if counted is None:
        kept = round(_moment(attempt.last_checkpoint_time, ready) - ready)
        productive = max(0, min(left, kept)) if _failed(attempt) else left
        return Goodput(productive=productive, recompute=left - productive)
    spent = {}
    for name, seconds in (
        ("checkpoint", counted.checkpoint),
        ("data_stall", counted.data_wait),
        ("recompute", max(0.0, counted.train - counted.kept) if _failed(attempt) else 0.0),
        ("productive", counted.evaluate + _kept(attempt)),
    ):
        spent[name] = min(left, round(seconds))
        left -= spent[name]
    return summed([Goodput(**spent), _start(left, first=first)])


def _kept(attempt: Attempt) -> float:
    counted = attempt.seconds
    assert counted is not None
    return min(counted.kept, counted.train) if _failed(attempt) else counted.train


def _tail(attempt: Attempt, seconds: int, *, first: bool) -> Goodput:
    """What the time went into after the last progress."""
    why = attempt.cause or attempt.stopping
    if why in _UNMOVED:
        return Goodput(stalled=seconds)
    if why is Cause.SUSPENDED:
        return Goodput(suspended=seconds)
    if why is not None:
        return Goodput(restart=seconds)
    if attempt.completion_time is None and not attempt.step and attempt.seconds is None:
        return _start(seconds, first=first)
    return Goodput(productive=seconds)
