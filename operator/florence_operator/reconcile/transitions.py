"""What becomes of an attempt that has not ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

from florence_operator.api.artifacts import artifacts_uri
from florence_operator.api.attempt_pods import Pod
from florence_operator.api.blame import Strike
from florence_operator.api.duration import seconds
from florence_operator.api.failure import Cause
from florence_operator.api.run_policy import Gang
from florence_operator.api.status import StageStatus, State
from florence_operator.api.termination import last_words
from florence_operator.api.times import timestamp, unix
from florence_operator.backends.protocol import ChildState
from florence_operator.observe.observation import Question
from florence_operator.reconcile.decision import Work
from florence_operator.reconcile.failures import Ending, first_failure, verdict
from florence_operator.reconcile.hangs import message_of, take_ranks
from florence_operator.reconcile.queueing import suspended
from florence_operator.reconcile.stage_view import (
    View,
    changed,
    count_gpus,
    finish,
    live,
    take_progress,
    with_attempt,
)
from florence_operator.reconcile.stalls import watched

_NO_CONFIGURATION = "CreateContainerConfigError"
"""What a kubelet says of a Secret that is not there."""
_IMAGE_PROBLEMS = (
    *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
    _NO_CONFIGURATION,
)
_STOPPING = {
    Cause.SUSPENDED: (None, "a checkpoint is made, then the pods are given back"),
    Cause.DEADLINE: (None, "the job's deadline has passed"),
    Cause.STALLED: (State.STALLED, "it made no progress for {policy.stall_timeout}"),
    Cause.NOT_HEARD: (State.STALLED, "nothing was heard of it for {policy.silence_timeout}"),
    Cause.NODE_LOST: (State.RECOVERING, "node {node} does not answer"),
}
_CHILDREN, _PODS = Question("Child"), Question("Pod")
_UNTIL_FOLLOWED = 10.0
"""Seconds after which a child is looked for again whose kind this replica does not follow yet."""


def follow(view: View, status: StageStatus, work: Work) -> StageStatus:
    """The record of a stage whose last attempt has not ended, after what was observed of it."""
    if not view.follows(status.attempts[-1]):
        work.wake(view.now + _UNTIL_FOLLOWED)
        return status
    status = take_progress(view, _with_uid(view, status))
    attempt = status.attempts[-1]
    after = _succeeded(view, status)
    if after is None and attempt.stopping is None:
        after = _told_to_stop(view, status, work)
    if after is None and attempt.stopping is not None:
        after = _stopping(view, status, work)
    if after is None:
        after = _child(view, status, work)
    if live(after) is not None:
        after = count_gpus(view, after)
    elif after.state in (State.FAILED, State.RECOVERING):
        last = after.attempts[-1]
        assert last.cause is not None
        if last.cause is not Cause.SUSPENDED:
            message = f"stage '{status.name}': {after.message}"
            work.tell(last.cause, message, action="Running", warning=True)
    return after


def _with_uid(view: View, status: StageStatus) -> StageStatus:
    """The record with the uid of its child, once that has been seen."""
    attempt = status.attempts[-1]
    child = view.child(attempt)
    if child is None or attempt.job_ref is None or attempt.job_ref.uid:
        return status
    return with_attempt(status, job_ref=attempt.job_ref.model_copy(update={"uid": child.uid}))


def _succeeded(view: View, status: StageStatus) -> StageStatus | None:
    """The record of a finished stage, when its pods say so."""
    attempt = status.attempts[-1]
    child, pods = view.child(attempt), view.members(attempt)
    first = next((pod for pod in pods if pod.index == 0), None)
    done = [pod for pod in pods if pod.phase == "Succeeded"]
    if len(done) < view.stage.resources.workers:
        if child is None or child.state is not ChildState.SUCCEEDED:
            return None
        if first is not None and not first.over:
            # The child is ahead of its pods in the caches: worker 0 tells the results in a moment.
            return None
        if first is None and not view.sure(_PODS):
            return status
    words = last_words(first.terminated.message if first and first.terminated else "")
    trained = view.stage.model_task is not None
    progress = status.progress
    if progress is not None:
        progress = progress.model_copy(
            update={"step": max(progress.step, progress.total), "eta_seconds": None}
        )
    ended = count_gpus(view, with_attempt(status, completion_time=timestamp(view.now), exit_code=0))
    return changed(
        ended,
        state=State.SUCCEEDED,
        conditions=(),
        reason="Succeeded",
        message=f"attempt {attempt.number} finished",
        next_attempt_time=None,
        progress=progress,
        model=f"{artifacts_uri(view.job, status.name)}/model" if trained else None,
        metrics=words.metrics,
        mlflow_run=words.mlflow_run,
    )


def _told_to_stop(view: View, status: StageStatus, work: Work) -> StageStatus | None:
    """The record of an attempt that user, deadline or a lost node end; None when nothing does."""
    attempt = status.attempts[-1]
    if view.overdue:
        return _stop(view, status, Cause.DEADLINE, work)
    if view.policy.suspend:
        return _stop(view, status, Cause.SUSPENDED, work)
    for pod in view.members(attempt):
        moment = view.away_from(pod)
        if moment <= view.now:
            return _stop(view, status, Cause.NODE_LOST, work, pod)
        if moment < math.inf:
            work.wake(moment)
    return None


def _stop(
    view: View, status: StageStatus, cause: Cause, work: Work, pod: Pod | None = None
) -> StageStatus:
    """The record of an attempt whose child is deleted from now on."""
    state, message = _STOPPING[cause]
    message = message.format(policy=view.policy, node=pod.node if pod else "")
    fields = {"pod": pod.name, "node": pod.node} if pod else {}
    status = with_attempt(status, stopping=cause, message=message, **fields)
    status = changed(
        status,
        state=state or status.state,
        reason=cause,
        message=f"attempt {status.attempts[-1].number} is being stopped: {message}",
    )
    return _stopping(view, status, work)


def _stopping(view: View, status: StageStatus, work: Work) -> StageStatus:
    """The record of an attempt that is being stopped: it ends when its pods are gone."""
    attempt = status.attempts[-1]
    assert attempt.stopping is not None
    child, pods = view.child(attempt), view.pods(attempt.number)
    status = take_ranks(status, view.members(attempt))
    for pod in pods:
        if view.now < (moment := view.lost_from(pod)) < math.inf:
            work.wake(moment)
    if (child is not None and not child.deleting) or view.holding(pods):
        return status
    if not view.sure(_CHILDREN, _PODS):
        return status
    message, node = message_of(status.attempts[-1]), attempt.node
    left = next((pod for pod in pods if not pod.over), None)
    strike = Strike.NODE_LOST if attempt.stopping is Cause.NODE_LOST else None
    if left is not None and attempt.stopping is not Cause.NODE_LOST:
        message = f"{message}; {left.name} did not end on node {left.node}"
        node, strike = left.node, Strike.POD_STUCK
    ending = Ending(cause=attempt.stopping, message=message, node=node, strike=strike)
    return _end(view, with_attempt(status, ranks=()), ending, work)


def _child(view: View, status: StageStatus, work: Work) -> StageStatus:
    """The record of an attempt that should go on, after what its child and its pods say."""
    attempt = status.attempts[-1]
    child, pods = view.child(attempt), view.members(attempt)
    settle = seconds(view.settings.failures.settle)
    if child is None or child.deleting:
        seen_until = (unix(attempt.start_time) or 0.0) + settle
        if child is None and view.now < seen_until:
            # It was made a moment ago: this cache may not have it yet.
            work.wake(seen_until)
            return status
        if child is None and not view.sure(_CHILDREN, _PODS):
            return status
        kind = attempt.job_ref.kind if attempt.job_ref else "child"
        gone = Ending(cause=Cause.CHILD_DELETED, message=f"somebody deleted the {kind}")
        return _end(view, status, first_failure(pods) or gone, work)
    if child.suspended:
        waits = suspended(view, status, child, work)
        return _end(view, status, waits, work) if isinstance(waits, Ending) else waits
    found = verdict(
        pods,
        child,
        workers=view.stage.resources.workers,
        ran=attempt.pods_ready_time is not None,
        now=view.now,
        settle=settle,
    )
    if isinstance(found, Ending):
        # That a pod is gone, or going, has a reason that may not have come here yet.
        if found.cause is Cause.POD_DELETED and not view.sure(_CHILDREN, _PODS):
            return status
        return _end(view, status, found, work)
    if found is not None:
        work.wake(found)
        return status
    if attempt.admission_time is None:
        waited = max(0.0, view.now - (unix(attempt.start_time) or view.now))
        status = with_attempt(status, admission_time=timestamp(view.now), queued_seconds=waited)
    return _pods(view, status, pods, work)


def _end(view: View, status: StageStatus, ending: Ending, work: Work) -> StageStatus:
    work.wake(view.now)
    return finish(view, status, ending)


def _pods(view: View, status: StageStatus, pods: Sequence[Pod], work: Work) -> StageStatus:
    """The record of an attempt after what its pods say, none of which failed."""
    attempt = status.attempts[-1]
    up = [pod for pod in pods if pod.phase in ("Running", "Succeeded")]
    if attempt.pods_ready_time is None and len(up) < view.stage.resources.workers:
        return _starting(view, status, pods, len(up), work)
    if attempt.pods_ready_time is None:
        status = with_attempt(status, pods_ready_time=timestamp(view.now))
        attempt = status.attempts[-1]
    workers = view.stage.resources.workers
    resumed = f" from step {attempt.restored_step}" if attempt.restored_step else ""
    status = changed(
        status,
        state=State.RUNNING,
        reason="Running",
        message=f"attempt {attempt.number} runs in {workers} pod{'s' * (workers > 1)}{resumed}",
    )
    status, cause = watched(view, status, work)
    return status if cause is None else _stop(view, status, cause, work)


def _starting(
    view: View, status: StageStatus, pods: Sequence[Pod], up: int, work: Work
) -> StageStatus:
    """The record of an attempt whose pods do not all run yet, and how long that may last."""
    attempt = status.attempts[-1]
    begun = unix(attempt.admission_time) or view.now
    longest = view.policy.start_deadline
    deadline = begun + seconds(longest) if longest else math.inf
    pulling = next((pod for pod in pods if pod.waiting_reason in _IMAGE_PROBLEMS), None)
    homeless = next((pod for pod in pods if pod.unschedulable), None)
    if pulling is not None:
        image = view.job.spec.image or view.settings.defaults.image
        cause, reason = Cause.IMAGE_PULL, pulling.waiting_reason
        if reason == _NO_CONFIGURATION:
            cause = Cause.INVALID_CONFIGURATION
        said = pulling.waiting_message or pulling.waiting_reason
        message = f"{pulling.name} cannot start from image {image}: {said}"
        patience = seconds(view.settings.failures.image_pull_deadline)
        deadline = min(deadline, max(begun, pulling.started) + patience)
    elif homeless is not None:
        cause, reason = Cause.UNSCHEDULABLE, "Unschedulable"
        message = f"{homeless.name} finds no node: {homeless.unschedulable}"
    else:
        cause, reason = Cause.START_DEADLINE, "PodsStarting"
        message = f"the pods of attempt {attempt.number} are being started"
    if (half := _half_a_gang(view, pods)) <= view.now:
        lasts = view.settings.failures.gang_deadline
        said = f"its pods did not all find a node within {lasts} of the first: {message}"
        ending = Ending(cause=Cause.PODS_READY_TIMEOUT, message=said)
        return _end(view, status, ending, work)
    if view.now >= deadline:
        short = f"{up} of {view.stage.resources.workers} pods ran after {longest}; "
        said = message if pulling is not None else short + message
        blamed = pulling or homeless
        ending = Ending(cause=cause, message=said, pod=blamed.name if blamed else None)
        return _end(view, status, ending, work)
    if (next_look := min(deadline, half)) < math.inf:
        work.wake(next_look)
    return changed(status, state=State.STARTING, reason=reason, message=message)


def _half_a_gang(view: View, pods: Sequence[Pod]) -> float:
    """Until when some pods may hold nodes while others find none; infinity where that is no matter.

    Two such halves would wait for each other for ever. One gives back what it holds, and is tried
    again after a while that doubles, so that the other one gets it.
    """
    policy, workers = view.policy, view.stage.resources.workers
    if policy.gang_scheduler is not Gang.NONE or policy.start_deadline is not None:
        return math.inf
    placed = [pod for pod in pods if pod.node]
    if not placed or len(placed) >= workers:
        return math.inf
    held_since = min(pod.started or view.now for pod in placed)
    return held_since + seconds(view.settings.failures.gang_deadline)
