"""What a stage without an attempt waits for, and its next attempt when it waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from florence_operator.admission.policy import unfit
from florence_operator.api.attempt_pods import Pod
from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt, JobReference, StageStatus, State
from florence_operator.api.times import timestamp, unix
from florence_operator.backends.protocol import Child
from florence_operator.build.children import attempt_objects, spec_hash
from florence_operator.build.names import child_name
from florence_operator.observe.observation import Question
from florence_operator.reconcile.avoidance import avoidance
from florence_operator.reconcile.cleanup import kept_until
from florence_operator.reconcile.decision import Start, Work
from florence_operator.reconcile.failures import Ending
from florence_operator.reconcile.queueing import DEACTIVATED, held, switched_off
from florence_operator.reconcile.stage_view import View, changed, finish, with_attempt
from florence_operator.reconcile.status import BLOCKED


def waiting_or_started(
    view: View, record: StageStatus, done: Mapping[str, StageStatus], work: Work
) -> StageStatus:
    """The record of a stage that has no attempt now: it waits for something, or starts one."""
    needed = [done[name] for name in view.stage.depends_on]
    broken = [s.name for s in needed if s.state is State.FAILED or s.reason == BLOCKED]
    if broken:
        said = f"it needs {', '.join(broken)}, which failed"
        return changed(record, state=State.PENDING, reason=BLOCKED, message=said)
    if view.overdue:
        said = f"the job's deadline of {view.policy.deadline} has passed"
        return changed(
            record,
            state=State.FAILED,
            reason=Cause.DEADLINE,
            message=said,
            next_attempt_time=None,
        )
    off = _switched_off(view, record)
    if off is not None and not view.policy.suspend:
        said = switched_off(view.place(off))
        return changed(
            record, state=State.SUSPENDED, reason=DEACTIVATED, message=said, next_attempt_time=None
        )
    if view.policy.suspend:
        said = "suspended; set spec.runPolicy.suspend to false to go on"
        return changed(
            record, state=State.SUSPENDED, reason="Suspended", message=said, next_attempt_time=None
        )
    waits = [s.name for s in needed if s.state is not State.SUCCEEDED]
    if waits:
        said = f"it waits for {', '.join(waits)}"
        return changed(record, state=State.PENDING, reason="WaitingForDependencies", message=said)
    following = unix(record.next_attempt_time)
    if following is not None and view.now < following:
        work.wake(following)
        return record
    return _startable(view, record, work)


def _switched_off(view: View, record: StageStatus) -> Child | None:
    """The last attempt's child, where its Workload was switched off: nothing follows it then."""
    child = view.child(record.attempts[-1]) if record.attempts else None
    if child is None or not child.suspended or child.deleting:
        return None
    if child.queued and child.name not in view.seen.queue and not view.sure(Question("Workload")):
        return None
    return child if held(view.place(child)) else None


def _startable(view: View, record: StageStatus, work: Work) -> StageStatus:
    """The record of a stage that nothing but its last attempt's remains can keep from starting."""
    number = record.last_number + 1
    again = State.RECOVERING if record.attempts else State.PENDING
    backend, job = view.backend, view.job.metadata.name
    child = view.seen.children.get(child_name(job, view.stage.name, number, backend.pods))
    adopted = child is not None and not child.deleting and _is_ours(view, child, number)
    others = [
        other
        for other in view.seen.children.values()
        if other.stage == view.stage.name and not other.deleting and other is not child
        if kept_until(view.seen, record, other) <= view.now
    ]
    if child is not None and not adopted:
        others.append(child)
    pods = [pod for pod in view.pods() if not (adopted and pod.attempt == number) and not pod.over]
    holding = view.holding(pods)
    for pod in pods:
        if view.now < (moment := view.lost_from(pod)) < math.inf:
            work.wake(moment)
    if holding or others:
        names = ", ".join(pod.name for pod in holding[:3]) or f"the last {others[0].kind}"
        more = f" and {len(holding) - 3} more" if len(holding) > 3 else ""
        said = f"it waits for {names}{more} to be gone"
        return changed(
            record, state=again, reason="WaitingForPods", message=said, next_attempt_time=None
        )
    problem = None if view.checked else unfit(view.job, view.settings)
    if problem is not None:
        return changed(record, state=again, reason="InvalidSpec", message=problem)
    if backend.kind not in view.seen.installed.served:
        said = f"the cluster does not serve {backend.resource.plural}.{backend.resource.group}"
        return changed(record, state=again, reason="BackendNotServed", message=said)
    refusal = view.seen.refusals.get(view.stage.name)
    if refusal is not None and not refusal.final and not adopted:
        said = f"the API server does not take its {backend.kind}: {refusal.message}"
        return changed(record, state=again, reason="Refused", message=said, next_attempt_time=None)
    # What no cache shows may be there all the same, and a newer status may know of it.
    remains = (Question("Child"), Question("Pod")) if record.attempts else ()
    if len(view.seen.installed.served) > 1:
        # One of another kind, that nobody recorded, has another name and would not be in the way.
        remains = (Question("Child"), *remains)
    if not view.sure(Question("FlorenceJob"), *remains):
        return record
    record = _start(view, record, number, work, adopted=adopted, left=pods)
    if refusal is not None and refusal.final:
        work.starts.pop()
        record = finish(view, record, Ending(cause=Cause.REJECTED, message=refusal.message))
        said = f"stage '{record.name}': {record.message}"
        work.tell(Cause.REJECTED, said, action="Starting", warning=True)
    return record


def _is_ours(view: View, child: Child, number: int) -> bool:
    """Whether a child found from before is what would be made now.

    The spec may have changed between the child and the status that was to tell of it.
    """
    if not child.spec_hash:  # of a version that wrote none
        return True
    return child.spec_hash == spec_hash(view.job, view.stage, number, view.settings, view.backend)


def _start(
    view: View,
    record: StageStatus,
    number: int,
    work: Work,
    *,
    adopted: bool,
    left: Sequence[Pod],
) -> StageStatus:
    """The record with a new attempt, whose objects are made; one found from before is kept.

    ``left`` are pods of earlier attempts that nobody gets rid of: their nodes are avoided.
    """
    job, stage, settings = view.job, view.stage, view.settings
    name = child_name(job.metadata.name, stage.name, number, view.backend.pods)
    documents: list[dict[str, Any]] = []
    away = avoidance(view)
    last = record.attempts[-1] if record.attempts else None
    if adopted:
        work.wake(view.now)
    else:
        avoided = {pod.node for pod in left if pod.node}
        if last is not None and last.cause is Cause.NODE_LOST and last.node:
            avoided.add(last.node)
        documents = attempt_objects(
            job,
            stage,
            number,
            settings,
            view.backend,
            ca=view.ca,
            avoid_nodes=away.unwanted(avoided),
            forbid_nodes=away.forbidden,
        )
    work.starts.append(Start(stage=stage.name, documents=tuple(documents)))
    if last is not None and last.cause is not Cause.SUSPENDED and view.seen.refusals == {}:
        said = f"stage '{stage.name}': attempt {number} starts"
        work.tell("Recovering", said, action="Starting")
    queue, now = view.policy.queue, timestamp(view.now)
    attempt = Attempt(
        number=number,
        job_ref=JobReference(kind=view.backend.kind, name=name),
        start_time=now,
        admission_time=None if queue else now,
        avoided_nodes=away.struck,
    )
    progress = record.progress
    if progress is not None:
        progress = progress.model_copy(
            update={"phase": "start", "eta_seconds": None, "samples_per_second": None}
        )
    record = changed(
        record,
        attempts=(*record.attempts, attempt),
        next_attempt_time=None,
        progress=progress,
        state=State.QUEUED if queue else State.STARTING,
        reason="WaitingForQuota" if queue else "PodsStarting",
        message=f"in queue {queue}" if queue else f"the pods of attempt {number} are being started",
    )
    return with_attempt(record)
