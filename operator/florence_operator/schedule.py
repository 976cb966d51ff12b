"""Decide what happens next to a job: its stages, its timers, its clean-up."""

from __future__ import annotations

import math
from collections.abc import Mapping

from florence_operator.api.duration import seconds
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER
from florence_operator.build import child_name, pytorch_job, removal_job
from florence_operator.decision import Decision, Deletion, Start, Work
from florence_operator.failures import Ending
from florence_operator.observe import Observation, timestamp, unix
from florence_operator.policy import unfit
from florence_operator.settings import OperatorConfiguration
from florence_operator.status import announce, idle_since, invalid, job_status, urgent
from florence_operator.transitions import follow
from florence_operator.view import View, changed, finish, live, with_attempt

_BLOCKED = "DependencyFailed"


def decide(seen: Observation, settings: OperatorConfiguration, *, ca: str = "") -> Decision:
    """What to do about a job now; a pure function of what was observed.

    Args:
        seen: the job and everything that belongs to it.
        settings: the operator's settings; ``progress.url`` is set where pods report progress.
        ca: certificates that the progress server's is checked against, in PEM.
    """
    old = seen.job.status or JobStatus()
    if seen.deleting:
        return _deleted(seen, settings, old)
    finalizers = _finalizers(seen)
    retried = _retried(seen, old)
    if retried.phase.terminal:
        return _terminal(seen, old, finalizers)
    at_work = any(live(stage) for stage in retried.stages)
    problem = None if at_work else unfit(seen.job, settings)
    if problem is not None:
        status = invalid(seen.job.metadata.generation, retried, problem, seen.now)
        return _decision(seen, old, status, Work(seen.now), finalizers)
    work = Work(seen.now)
    stages = _stages(seen, settings, retried, work, ca)
    status = job_status(seen, retried, stages)
    announce(seen.job, retried, status, work)
    if seen.now < (moment := _deadline(seen, status)) < math.inf and not status.phase.terminal:
        work.wake(moment)
    return _decision(seen, old, status, work, finalizers)


def _decision(
    seen: Observation,
    old: JobStatus,
    status: JobStatus,
    work: Work,
    finalizers: tuple[str, ...] | None = None,
) -> Decision:
    return Decision(
        status=status,
        changed=status != old or seen.job.status is None,
        urgent=urgent(old, status) or seen.job.status is None,
        finalizers=finalizers,
        starts=tuple(work.starts),
        delete=_leftovers(seen, status, work),
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
            next_attempt=None,
            budget_from=len(stage.attempts) + 1,
        )
        if stage.state in (State.FAILED, State.RECOVERING) and live(stage) is None
        else stage
        for stage in status.stages
    )
    fields: dict[str, object] = {**again, "stages": stages}
    if status.phase is State.FAILED:
        # The time until now counts against no deadline.
        fields |= {"phase": State.PENDING, "started": None, "ended": None, "idle_seconds": 0.0}
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
    done: dict[str, StageStatus] = {}
    for stage in seen.job.spec.in_order():
        view = View(stage=stage, seen=seen, settings=settings, ca=ca, overdue=overdue)
        record = status.stage(stage.name)
        if live(record) is not None:
            record = follow(view, record, work)
        if live(record) is None and not record.state.terminal:
            record = _idle(view, record, done, work)
        done[stage.name] = record
    return tuple(done[stage.name] for stage in seen.job.spec.stages)


def _deadline(seen: Observation, status: JobStatus) -> float:
    """When the deadline passes; time that the whole job was queued or suspended is free."""
    deadline, started = seen.job.spec.run_policy.deadline, unix(status.started)
    if deadline is None or started is None or idle_since(status) is not None:
        return math.inf
    return started + status.idle_seconds + seconds(deadline)


def _idle(
    view: View, record: StageStatus, done: Mapping[str, StageStatus], work: Work
) -> StageStatus:
    """The record of a stage that has no attempt now: it waits for something, or starts one."""
    needed = [done[name] for name in view.stage.depends_on]
    broken = [s.name for s in needed if s.state is State.FAILED or s.reason == _BLOCKED]
    if broken:
        said = f"it needs {', '.join(broken)}, which failed"
        return changed(record, state=State.PENDING, reason=_BLOCKED, message=said)
    if view.overdue:
        said = f"the job's deadline of {view.policy.deadline} has passed"
        return changed(
            record,
            state=State.FAILED,
            reason=Cause.DEADLINE,
            message=said,
            next_attempt=None,
        )
    if view.policy.suspend:
        said = "suspended; set spec.runPolicy.suspend to false to go on"
        return changed(
            record, state=State.SUSPENDED, reason="Suspended", message=said, next_attempt=None
        )
    waits = [s.name for s in needed if s.state is not State.SUCCEEDED]
    if waits:
        said = f"it waits for {', '.join(waits)}"
        return changed(record, state=State.PENDING, reason="WaitingForDependencies", message=said)
    following = unix(record.next_attempt)
    if following is not None and view.now < following:
        work.wake(following)
        return record
    return _startable(view, record, work)


def _startable(view: View, record: StageStatus, work: Work) -> StageStatus:
    """The record of a stage that nothing but its last attempt's remains can keep from starting."""
    number = len(record.attempts) + 1
    again = State.RECOVERING if record.attempts else State.PENDING
    child = view.seen.children.get(child_name(view.job.metadata.name, view.stage.name, number))
    others = [
        other
        for other in view.seen.children.values()
        if other.stage == view.stage.name and not other.deleting and other is not child
    ]
    adopted = number if child is not None and not child.deleting else None
    pods = [pod for pod in view.pods() if pod.attempt != adopted and not pod.over]
    holding = view.holding(pods)
    for pod in pods:
        if view.now < (moment := view.lost_from(pod)) < math.inf:
            work.wake(moment)
    if holding or others or (child is not None and child.deleting):
        names = ", ".join(pod.name for pod in holding[:3]) or "the last PyTorchJob"
        more = f" and {len(holding) - 3} more" if len(holding) > 3 else ""
        said = f"it waits for {names}{more} to be gone"
        return changed(
            record, state=again, reason="WaitingForPods", message=said, next_attempt=None
        )
    refusal = view.seen.refusals.get(view.stage.name)
    if refusal is not None and not refusal.final:
        said = f"the API server does not take its PyTorchJob: {refusal.message}"
        return changed(record, state=again, reason="Refused", message=said, next_attempt=None)
    record = _start(view, record, number, work, adopted=adopted is not None)
    if refusal is not None:
        work.starts.pop()
        record = finish(view, record, Ending(cause=Cause.REJECTED, message=refusal.message))
        said = f"stage '{record.name}': {record.message}"
        work.tell(Cause.REJECTED, said, action="Starting", warning=True)
    return record


def _start(
    view: View, record: StageStatus, number: int, work: Work, *, adopted: bool
) -> StageStatus:
    """The record with a new attempt, whose objects are made; one found from before is kept."""
    job, stage, settings = view.job, view.stage, view.settings
    name = child_name(job.metadata.name, stage.name, number)
    documents = []
    last = record.attempts[-1] if record.attempts else None
    if adopted:
        work.wake(view.now)
    else:
        avoided = last.node if last and last.cause is Cause.NODE_LOST else None
        child = pytorch_job(job, stage, number, settings, ca=view.ca, avoid_node=avoided)
        documents.append(child)
    work.starts.append(Start(stage=stage.name, documents=tuple(documents)))
    if last is not None and last.cause is not Cause.SUSPENDED and view.seen.refusals == {}:
        said = f"stage '{stage.name}': attempt {number} starts"
        work.tell("Recovering", said, action="Starting")
    queue, now = view.policy.queue, timestamp(view.now)
    attempt = Attempt(number=number, child=name, started=now, admitted=None if queue else now)
    progress = record.progress
    if progress is not None:
        progress = progress.model_copy(
            update={"phase": "start", "eta_seconds": None, "samples_per_second": None}
        )
    record = changed(
        record,
        attempts=(*record.attempts, attempt),
        next_attempt=None,
        progress=progress,
        state=State.QUEUED if queue else State.STARTING,
        reason="WaitingForQuota" if queue else "PodsStarting",
        message=f"in queue {queue}" if queue else f"the pods of attempt {number} are being started",
    )
    return with_attempt(record)


def _leftovers(seen: Observation, status: JobStatus, work: Work) -> tuple[Deletion, ...]:
    """The children of no attempt that goes on."""
    going = [attempt for stage in status.stages if (attempt := live(stage)) is not None]
    # An attempt that the API server has not taken yet keeps what there is of it.
    wanted = {
        child_name(seen.job.metadata.name, stage.name, len(stage.attempts) + 1)
        for stage in status.stages
        if stage.reason == "Refused"
    }
    kept = wanted | {a.child for a in going if a.stopping is None}
    return tuple(
        Deletion(kind="PyTorchJob", name=child.name, uid=child.uid or None)
        for child in seen.children.values()
        if child.name not in kept and not child.deleting
    )


def _terminal(seen: Observation, status: JobStatus, finalizers: tuple[str, ...] | None) -> Decision:
    """Clean up after a job that has ended, and delete it when its time has come."""
    work = Work(seen.now)
    policy = seen.job.spec.run_policy
    lasts = policy.ttl_after_finished
    if status.phase is State.FAILED and policy.ttl_after_failed is not None:
        lasts = policy.ttl_after_failed
    expired: tuple[Deletion, ...] = ()
    ended = unix(status.ended)
    if lasts is not None and ended is not None:
        moment = ended + seconds(lasts)
        if seen.now >= moment:
            uid = seen.job.metadata.uid
            expired = (Deletion(kind="FlorenceJob", name=seen.job.metadata.name, uid=uid),)
        else:
            work.wake(moment)
    known = status.model_copy(update={"retry": max(status.retry, policy.retry)})
    return Decision(
        status=known,
        changed=known != status,
        finalizers=finalizers,
        delete=(*_leftovers(seen, status, work), *expired),
        requeue_after=work.requeue_after,
    )


def _finalizers(seen: Observation) -> tuple[str, ...] | None:
    """The finalizers that a job ought to have, when it has others."""
    wanted = seen.job.spec.artifacts.delete_with_job
    if wanted == (ARTIFACTS_FINALIZER in seen.finalizers):
        return None
    others = tuple(name for name in seen.finalizers if name != ARTIFACTS_FINALIZER)
    return (*others, ARTIFACTS_FINALIZER) if wanted else others


def _deleted(seen: Observation, settings: OperatorConfiguration, status: JobStatus) -> Decision:
    """Delete a deleted job's artifacts when it asked for that; all else is garbage collection."""
    if ARTIFACTS_FINALIZER not in seen.finalizers:
        return Decision(status=status)
    work = Work(seen.now)
    gone = JobStatus(stages=())
    leftovers = _leftovers(seen, gone, work)
    others = tuple(name for name in seen.finalizers if name != ARTIFACTS_FINALIZER)
    removal = seen.removal
    never_ran = not any(stage.attempts for stage in status.stages)
    unwanted = not seen.job.spec.artifacts.delete_with_job or unfit(seen.job, settings) is not None
    if removal is not None and removal.failed:
        said = f"its artifacts were not all deleted: {removal.failed}"
        work.tell("ArtifactsLeft", said, action="Deleting", warning=True)
    elif seen.namespace_terminating:
        said = "its artifacts stay: the namespace is going, and no pod can delete them"
        work.tell("ArtifactsLeft", said, action="Deleting", warning=True)
    elif not (never_ran or unwanted or (removal is not None and removal.done)):
        views = [View(stage=stage, seen=seen, settings=settings) for stage in seen.job.spec.stages]
        pods = [pod for view in views for pod in view.pods()]
        holding = [pod for view in views for pod in view.holding(view.pods())]
        for view in views:
            moments = [view.lost_from(pod) for pod in pods]
            for moment in moments:
                if seen.now < moment < math.inf:
                    work.wake(moment)
        ready = not holding and not any(not c.deleting for c in seen.children.values())
        return Decision(
            status=status,
            apply=(removal_job(seen.job, settings),) if ready and removal is None else (),
            delete=leftovers,
            requeue_after=work.requeue_after,
        )
    return Decision(status=status, finalizers=others, delete=leftovers, events=tuple(work.events))
