"""What becomes of an attempt whose child waits in a queue, or was put back into one."""

from __future__ import annotations

from florence_operator.api.failure import Cause
from florence_operator.api.status import StageStatus, State
from florence_operator.backends.protocol import Child
from florence_operator.observe.observation import Question
from florence_operator.observe.queue import QueuePlace
from florence_operator.reconcile.decision import Work
from florence_operator.reconcile.failures import Ending
from florence_operator.reconcile.stage_view import View, changed, with_attempt

DEACTIVATED = "Deactivated"
"""Kueue's reason for evicting a Workload that somebody, or its own limits, switched off."""
_MAXIMUM_EXECUTION_TIME = "MaximumExecutionTimeExceeded"
_CAUSES = {
    "PodsReadyTimeout": Cause.PODS_READY_TIMEOUT,
    "NodeFailures": Cause.NODE_LOST,
    DEACTIVATED: Cause.SUSPENDED,
    _MAXIMUM_EXECUTION_TIME: Cause.MAXIMUM_EXECUTION_TIME,
}
"""What evictions stand for; all others only take the quota back, and cost nothing."""


def held(place: QueuePlace) -> bool:
    """Whether a Workload was switched off: it is for whoever did that to switch it on again."""
    if place.active is None:
        return _word(place) == DEACTIVATED
    return not place.active and _word(place) != _MAXIMUM_EXECUTION_TIME


def suspended(view: View, status: StageStatus, child: Child, work: Work) -> StageStatus | Ending:
    """The record of an attempt whose child is suspended, or how that ended it."""
    place, attempt = view.place(child), status.attempts[-1]
    queued = view.policy.queue is not None
    # Both are read anew before it is believed: a cache may still show it as it was when it queued.
    if attempt.admission_time is not None and not view.sure(
        Question("Child"), Question("Workload")
    ):
        return status
    if attempt.admission_time is not None and (
        queued or attempt.pods_ready_time is not None or place.evicted
    ):
        why = place.evicted or f"its {child.kind} was suspended"
        cause = Cause.SUSPENDED if held(place) else _CAUSES.get(_word(place), Cause.PREEMPTED)
        return Ending(cause=cause, message=f"{why}{_said(place)}")
    state = State.QUEUED
    if held(place):
        state, reason, message = State.SUSPENDED, DEACTIVATED, switched_off(place)
    elif _word(place) == _MAXIMUM_EXECUTION_TIME:
        return Ending(cause=Cause.MAXIMUM_EXECUTION_TIME, message=f"{place.evicted}{_said(place)}")
    elif place.finished:
        reason = "QueueRejected"
        message = f"Kueue has finished its Workload without running it{_said(place)}"
    else:
        reason = place.reason or "WaitingForQuota"
        where = f"queue {view.policy.queue}" if queued else "a queue"
        at = "" if place.position is None else f"number {place.position + 1} "
        message = f"{at}in {where}{_said(place)}"
    if state is State.QUEUED and (status.state is not state or status.reason != reason):
        work.tell("Queued", f"stage '{status.name}': {message}", action="Queueing")
    status = with_attempt(status, admission_time=None)
    return changed(status, state=state, reason=reason, message=message)


def switched_off(place: QueuePlace) -> str:
    """What to say of a stage whose Workload was switched off."""
    said = _said(place)
    return f"its Workload was deactivated ({place.evicted or 'spec.active is false'}){said}"


def _word(place: QueuePlace) -> str:
    """The reason of an eviction; ``DeactivatedDueTo…`` names why a Workload was switched off."""
    word = place.evicted
    if word.startswith(DEACTIVATED):
        return _MAXIMUM_EXECUTION_TIME if word.endswith(_MAXIMUM_EXECUTION_TIME) else DEACTIVATED
    return word


def _said(place: QueuePlace) -> str:
    return f": {place.message}" if place.message else ""
