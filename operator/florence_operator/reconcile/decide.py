"""Decide what happens next to a job: its stages and its timers."""

from __future__ import annotations

import math

from florence_operator.admission.policy import unfit
from florence_operator.api.duration import seconds
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.times import unix
from florence_operator.observe.observation import Observation
from florence_operator.reconcile.accounting import counted, ended_at, with_pause
from florence_operator.reconcile.cleanup import deleted, finalizers, leftovers, terminal
from florence_operator.reconcile.decision import Decision, Work
from florence_operator.reconcile.next_attempt import waiting_or_started
from florence_operator.reconcile.stage_view import View, changed, live
from florence_operator.reconcile.status import announce, idle_since, invalid, job_status, urgent
from florence_operator.reconcile.transitions import follow
from florence_operator.settings import OperatorConfiguration


def decide(seen: Observation, settings: OperatorConfiguration, *, ca: str = "") -> Decision:
    """What to do about a job now; a pure function of what was observed.

    Args:
        seen: the job and everything that belongs to it.
        settings: the operator's settings; ``progress.url`` is set where pods report progress.
        ca: certificates that the progress server's is checked against, in PEM.
    """
    old = seen.job.status or JobStatus()
    if seen.deleting:
        return deleted(seen, settings, old)
    wanted = finalizers(seen)
    retried = _retried(seen, old)
    if retried.phase.terminal:
        return terminal(seen, old, wanted)
    at_work = any(live(stage) for stage in retried.stages)
    if not at_work and not retried.phase.known:
        # Another version put it there, and knows whether that is the end.
        return Decision(status=old)
    if not at_work and (problem := unfit(seen.job, settings)) is not None:
        status = invalid(seen.job.metadata.generation, retried, problem, seen.now)
        return _decision(seen, old, status, Work(seen.now), wanted)
    work = Work(seen.now)
    stages = _stages(seen, settings, retried, work, ca)
    status = counted(job_status(seen, retried, stages), old, seen.now)
    announce(seen.job, retried, status, work)
    if seen.now < (moment := _deadline(seen, status)) < math.inf and not status.phase.terminal:
        work.wake(moment)
    return _decision(seen, old, status, work, wanted)


def _decision(
    seen: Observation,
    old: JobStatus,
    status: JobStatus,
    work: Work,
    wanted: tuple[str, ...] | None = None,
) -> Decision:
    delete = leftovers(seen, status, work)
    return Decision(
        status=status,
        questions=frozenset(work.questions),
        changed=status != old or seen.job.status is None,
        urgent=urgent(old, status) or seen.job.status is None,
        finalizers=wanted,
        starts=tuple(work.starts),
        delete=delete,
        events=tuple(work.events),
        requeue_after=work.requeue_after,
    )


def _retried(seen: Observation, status: JobStatus) -> JobStatus:
    """The status after a request to retry: failed stages are fresh again."""
    wanted = seen.job.spec.run_policy.retry
    if wanted <= status.retry:
        return status
    again = {"retry": wanted}
    if status.phase is State.SUCCEEDED:
        return status.model_copy(update=again)
    stages = tuple(
        changed(
            stage,
            state=State.PENDING,
            reason="Retried",
            message="it is tried again on request",
            next_attempt_time=None,
            first_counted_attempt=stage.last_number + 1,
            suspended_time=stage.suspended_time or ended_at(stage),
        )
        if stage.state in (State.FAILED, State.RECOVERING) and live(stage) is None
        else stage
        for stage in status.stages
    )
    fields: dict[str, object] = {**again, "stages": stages}
    if status.phase is State.FAILED:
        # The time until now counts against no deadline.
        fields |= {
            "phase": State.PENDING,
            "start_time": None,
            "completion_time": None,
            "idle_seconds": 0.0,
        }
    return status.model_copy(update=fields)


def _stages(
    seen: Observation,
    settings: OperatorConfiguration,
    status: JobStatus,
    work: Work,
    ca: str,
) -> tuple[StageStatus, ...]:
    """The record of every stage after this look, in the order of the spec."""
    overdue = seen.now >= _deadline(seen, status)
    checked = not any(live(stage) for stage in status.stages)
    done: dict[str, StageStatus] = {}
    for stage in seen.job.spec.in_order():
        view = View(
            stage=stage,
            seen=seen,
            settings=settings,
            ca=ca,
            overdue=overdue,
            checked=checked,
            work=work,
        )
        before = record = status.stage(stage.name)
        if live(record) is not None:
            record = follow(view, record, work)
        if not before.state.known and (live(record) is None) == (live(before) is None):
            # Another version's word for where it stands: it stays until the attempt ends.
            kept = {"state": before.state, "reason": before.reason, "message": before.message}
            record = changed(record, **kept)
        elif live(record) is None and not record.state.terminal:
            record = with_pause(record, waiting_or_started(view, record, done, work), view.now)
        done[stage.name] = record
    return tuple(done[stage.name] for stage in seen.job.spec.stages)


def _deadline(seen: Observation, status: JobStatus) -> float:
    """When the deadline passes; time that the whole job was queued or suspended is free."""
    deadline, started = seen.job.spec.run_policy.deadline, unix(status.start_time)
    if deadline is None or started is None or idle_since(status) is not None:
        return math.inf
    return started + status.idle_seconds + seconds(deadline)
