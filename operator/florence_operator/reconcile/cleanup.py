"""What is left of attempts, of jobs that have ended, and of jobs that are deleted."""

from __future__ import annotations

import math
from collections.abc import Iterator

from florence_operator.admission.policy import unfit
from florence_operator.api.attempt_pods import Pod
from florence_operator.api.child_kinds import CHILD_KINDS
from florence_operator.api.duration import seconds
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.times import unix
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER
from florence_operator.backends.protocol import Child
from florence_operator.backends.registry import backend_of, made
from florence_operator.build.names import child_name
from florence_operator.build.removal import removal_job
from florence_operator.observe.observation import Observation, Question
from florence_operator.observe.queue import QueuePlace
from florence_operator.reconcile.decision import Decision, Deletion, Work
from florence_operator.reconcile.queueing import held
from florence_operator.reconcile.stage_view import View, live
from florence_operator.settings import OperatorConfiguration

_JOB, _CHILDREN, _PODS = Question("FlorenceJob"), Question("Child"), Question("Pod")


def leftovers(seen: Observation, status: JobStatus, work: Work) -> tuple[Deletion, ...]:
    """The children and orphans of no attempt that goes on."""
    going = [attempt for stage in status.stages if (attempt := live(stage)) is not None]
    # An attempt that the API server has not taken yet keeps what there is of it.
    wanted = {
        child_name(seen.job.metadata.name, stage.name, stage.last_number + 1, kind)
        for stage in status.stages
        for kind in CHILD_KINDS.values()
        if stage.reason == "Refused"
    }
    parked = {child.name for child in seen.children.values() if _parked(seen, status, child, work)}
    for child in seen.children.values():
        if seen.now < (moment := kept_until(seen, status.stage(child.stage), child)):
            parked.add(child.name)
            work.wake(moment)
    kept = parked | wanted | {a.child for a in going if a.stopping is None}
    unwanted = [c for c in seen.children.values() if c.name not in kept and not c.deleting]
    orphans = _orphans(seen, status)
    left: list[Child | Pod] = [*unwanted, *orphans]
    if not all(_recorded(status, each) for each in left):
        # The status may be older than they are, and the one to come may be about them.
        work.ask(seen, _JOB)
    return (
        *(Deletion(kind=c.kind, name=c.name, uid=c.uid or None) for c in unwanted),
        *dict.fromkeys(deletion for pod in orphans for deletion in _with_remnants(pod)),
    )


def kept_until(seen: Observation, record: StageStatus, child: Child) -> float:
    """Until when a child stays for its failed pods, which hold no GPU and are there to be read."""
    lasts = seen.job.spec.run_policy.keep_failed_pods
    attempt = next((a for a in record.attempts if a.child == child.name), None)
    if lasts is None or attempt is None or attempt.stopping is not None:
        return -math.inf
    # Its controller ends the other pods of such a child, and makes it no new ones.
    failed = any(pod.phase == "Failed" and made(child, pod) for pod in seen.pods)
    ended = unix(attempt.completion_time)
    return -math.inf if ended is None or not failed else ended + seconds(lasts)


def _parked(seen: Observation, status: JobStatus, child: Child, work: Work) -> bool:
    """Whether a child has to stay although its attempt is over: its Workload was switched off.

    Without it nobody could switch that on again, and what follows would overrule whoever did it.
    """
    record = status.stage(child.stage)
    last = record.last_number == child.attempt and live(record) is None
    if record.state.terminal or not last or not child.suspended:
        return False
    if child.queued and child.name not in seen.queue:
        return not work.ask(seen, Question("Workload"))
    return held(seen.queue.get(child.name, QueuePlace()))


def _orphans(seen: Observation, status: JobStatus) -> list[Pod]:
    """The pods of no attempt that goes on, and of nobody: no garbage collection has them.

    A TrainJob's pods have an owner all the same: whether that has one is seen before it is deleted.
    """
    going = {
        (stage.name, attempt.number)
        for stage in status.stages
        if (attempt := live(stage)) is not None and attempt.stopping is None
    }
    there = {(child.stage, child.attempt) for child in seen.children.values()}
    return [
        pod
        for pod in seen.pods
        if (not pod.owner or pod.train_job) and (pod.stage, pod.attempt) not in going | there
    ]


def _with_remnants(pod: Pod) -> Iterator[Deletion]:
    """The deletions of an orphan, and of what else of its child only the pod leads to."""
    for left in backend_of(pod).remnants(pod):
        yield Deletion(kind=left.kind, name=left.name, child=left.child)
    if not (pod.owner or pod.deleting):
        yield Deletion(kind="Pod", name=pod.name, uid=pod.uid or None)


def _recorded(status: JobStatus, thing: Child | Pod) -> bool:
    """Whether the status knows the attempt of a child or a pod."""
    return thing.attempt <= status.stage(thing.stage).last_number


def terminal(
    seen: Observation, status: JobStatus, wanted_finalizers: tuple[str, ...] | None
) -> Decision:
    """Clean up after a job that has ended, and delete it when its time has come.

    A change of its spec is only noted, unless it asks to retry.
    """
    work = Work(seen.now)
    policy = seen.job.spec.run_policy
    lasts = policy.ttl_after_finished
    if status.phase is State.FAILED and policy.ttl_after_failed is not None:
        lasts = policy.ttl_after_failed
    expired: tuple[Deletion, ...] = ()
    ended = unix(status.completion_time)
    if lasts is not None and ended is not None:
        moment = ended + seconds(lasts)
        if seen.now >= moment and work.ask(seen, _JOB):
            uid = seen.job.metadata.uid
            expired = (Deletion(kind="FlorenceJob", name=seen.job.metadata.name, uid=uid),)
        elif seen.now < moment:
            work.wake(moment)
    known = status.model_copy(
        update={
            "retry": max(status.retry, policy.retry),
            "observed_generation": seen.job.metadata.generation,
        }
    )
    delete = (*leftovers(seen, status, work), *expired)
    return Decision(
        status=known,
        questions=frozenset(work.questions),
        changed=known != status,
        urgent=known != status,
        finalizers=wanted_finalizers,
        delete=delete,
        requeue_after=work.requeue_after,
    )


def finalizers(seen: Observation) -> tuple[str, ...] | None:
    """The finalizers that a job ought to have, when it has others."""
    wanted = seen.job.spec.artifacts.delete_with_job
    if wanted == (ARTIFACTS_FINALIZER in seen.finalizers):
        return None
    others = tuple(name for name in seen.finalizers if name != ARTIFACTS_FINALIZER)
    return (*others, ARTIFACTS_FINALIZER) if wanted else others


def deleted(seen: Observation, settings: OperatorConfiguration, status: JobStatus) -> Decision:
    """Delete a deleted job's artifacts when it asked for that; all else is garbage collection."""
    if ARTIFACTS_FINALIZER not in seen.finalizers:
        return Decision(status=status)
    work = Work(seen.now)
    # As if it had no attempts: nothing of them is to go on, however new it is.
    left = leftovers(seen, JobStatus(), work)
    others = tuple(name for name in seen.finalizers if name != ARTIFACTS_FINALIZER)
    removal = seen.removal
    never_ran = not any(stage.attempts for stage in status.stages) and work.ask(seen, _JOB)
    unwanted = not seen.job.spec.artifacts.delete_with_job or unfit(seen.job, settings) is not None
    if removal is not None and removal.failed:
        said = f"its artifacts were not all deleted: {removal.failed}"
        work.tell("ArtifactsLeft", said, action="Deleting", warning=True)
    elif seen.namespace_terminating:
        said = "its artifacts stay: the namespace is going, and no pod can delete them"
        work.tell("ArtifactsLeft", said, action="Deleting", warning=True)
    elif not (never_ran or unwanted or (removal is not None and removal.done)):
        ready = removal is None and _nothing_runs(seen, settings, work)
        return Decision(
            status=status,
            questions=frozenset(work.questions),
            apply=(removal_job(seen.job, settings),) if ready else (),
            delete=left,
            requeue_after=work.requeue_after,
        )
    return Decision(
        status=status,
        questions=frozenset(work.questions),
        finalizers=others,
        delete=left,
        events=tuple(work.events),
    )


def _nothing_runs(seen: Observation, settings: OperatorConfiguration, work: Work) -> bool:
    """Whether no pod of a deleted job can write any more."""
    holding = []
    for stage in seen.job.spec.stages:
        view = View(stage=stage, seen=seen, settings=settings, work=work)
        pods = view.pods()
        holding += view.holding(pods)
        for pod in pods:
            if seen.now < (moment := view.lost_from(pod)) < math.inf:
                work.wake(moment)
    if holding or any(not child.deleting for child in seen.children.values()):
        return False
    return work.ask(seen, _CHILDREN, _PODS)
