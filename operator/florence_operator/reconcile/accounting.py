"""Keep the account of what stages' time goes into, as :mod:`florence_operator.api.goodput` has it.

It is written whenever the status is, and is no reason to write it: time passes by itself.
"""

from __future__ import annotations

from florence_operator.api.failure import Cause
from florence_operator.api.goodput import stage_goodput, summed
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.times import timestamp, unix
from florence_operator.reconcile.stage_view import changed, live, with_attempt


def counted(status: JobStatus, old: JobStatus, now: float) -> JobStatus:
    """The status with its account up to now, when anything else of it has changed."""
    if status == old:
        return status
    # A stage in a state of another version stays as it is.
    stages = tuple(
        changed(stage, goodput=stage_goodput(stage, now))
        if stage.state.known or live(stage) is not None
        else stage
        for stage in status.stages
    )
    known = [stage.goodput for stage in stages if stage.goodput is not None]
    total = summed(known) if known else None
    fraction = total.fraction if total is not None else None
    said = None if fraction is None else f"{100 * fraction:.0f}%"
    summary = status.summary.model_copy(update={"goodput": said})
    return status.model_copy(update={"stages": stages, "goodput": total, "summary": summary})


def with_pause(before: StageStatus, after: StageStatus, now: float) -> StageStatus:
    """The record of a stage that had no attempt, with the time in which nobody wanted it to run.

    The next attempt takes over what has been counted until it starts.
    """
    if not before.attempts:
        return after
    since = before.suspended_time
    if after.state is State.SUSPENDED:
        last = before.attempts[-1]
        begun = last.completion_time if last.cause is Cause.SUSPENDED else timestamp(now)
        return changed(after, suspended_time=since or begun)
    seconds = before.suspended_seconds
    if since is not None:
        seconds += max(0.0, now - (unix(since) or now))
    if after.last_number > before.last_number:
        after = with_attempt(after, suspended_seconds=seconds)
        return changed(after, suspended_time=None, suspended_seconds=0.0)
    # One that fails without an attempt may be retried some day.
    begun = timestamp(now) if after.state is State.FAILED else None
    return changed(after, suspended_time=begun, suspended_seconds=seconds)


def ended_at(stage: StageStatus) -> str | None:
    """When a failed stage's last attempt ended; None for one that goes on, or never had any."""
    failed = stage.state is State.FAILED and stage.attempts
    return stage.attempts[-1].completion_time if failed else None
