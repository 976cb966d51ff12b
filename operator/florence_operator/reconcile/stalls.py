"""Whether a running attempt gets further, and whether it is heard at all."""

from __future__ import annotations

from florence_operator.api.conditions import find_condition, set_condition
from florence_operator.api.duration import seconds
from florence_operator.api.failure import Cause
from florence_operator.api.status import PROGRESS_REPORTED, StageStatus
from florence_operator.api.times import timestamp, unix
from florence_operator.reconcile.decision import Work
from florence_operator.reconcile.stage_view import View, changed


def watched(view: View, status: StageStatus, work: Work) -> tuple[StageStatus, Cause | None]:
    """The record of a running attempt, and the cause for which it has to be stopped, if there is.

    Heard and unmoved for longer than allowed, it is stalled. Not heard, it may train as well as
    ever: that is told, and it is stopped only where the job asks for that. Time counts only while
    this operator could hear: since the pods ran, and since it leads.
    """
    if view.settings.progress.url is None:
        return status, None
    attempt = status.attempts[-1]
    begun = max(unix(attempt.pods_ready_time) or 0.0, view.seen.hears_since)
    report = view.seen.progress.get((status.name, attempt.number))
    heard = max(begun, report.heard) if report else begun
    silent = heard + seconds(view.settings.progress.silence)
    if view.now >= silent:
        return _not_heard(view, status, heard, work)
    work.wake(silent)
    if report is None:
        # Another leader may have said that it is not heard; this one does not know better yet.
        return _as_known(status), None
    status = _heard(view, status)
    unmoved = max(begun, report.received)
    allowed = seconds(view.policy.stall_timeout)
    if report.heard - unmoved >= allowed:
        said = (
            f"stage '{status.name}': attempt {attempt.number} made no progress for "
            f"{view.policy.stall_timeout} at step {attempt.step or 0}"
        )
        work.tell("Stalled", said, action="Watching", warning=True)
        return status, Cause.STALLED
    # Only the first report after the time is up can say that it is.
    work.wake(max(unmoved + allowed, view.now + view.settings.progress.interval_seconds))
    return status, None


def _not_heard(
    view: View, status: StageStatus, heard: float, work: Work
) -> tuple[StageStatus, Cause | None]:
    attempt = status.attempts[-1]
    known = find_condition(status.conditions, PROGRESS_REPORTED)
    if known is None or known.status != "False":
        said = (
            f"nothing has been heard of attempt {attempt.number} since {timestamp(heard)}, "
            "although its pods run"
        )
        status = _with_condition(view, status, False, "NotHeard", said)
        work.tell("NotHeard", f"stage '{status.name}': {said}", action="Watching", warning=True)
    status = _as_known(status)
    if view.policy.silence_timeout is None:
        return status, None
    last = heard + seconds(view.policy.silence_timeout)
    if view.now >= last:
        return status, Cause.NOT_HEARD
    work.wake(last)
    return status, None


def _heard(view: View, status: StageStatus) -> StageStatus:
    """The record of a stage that is heard; one that always was needs no condition to say so."""
    if find_condition(status.conditions, PROGRESS_REPORTED) is None:
        return status
    return _with_condition(view, status, True, "Reporting", "")


def _as_known(status: StageStatus) -> StageStatus:
    """The record with the reason that its condition gives, where it is not heard."""
    known = find_condition(status.conditions, PROGRESS_REPORTED)
    if known is None or known.status != "False":
        return status
    return changed(status, reason=known.reason, message=f"{status.message}; {known.message}")


def _with_condition(
    view: View, status: StageStatus, reported: bool, reason: str, message: str
) -> StageStatus:
    conditions = set_condition(
        status.conditions,
        type=PROGRESS_REPORTED,
        status=reported,
        reason=reason,
        message=message,
        generation=view.job.metadata.generation or 0,
        now=timestamp(view.now),
    )
    return changed(status, conditions=conditions)
