"""What a job says about itself: phase, conditions, columns; derived from its stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from florence_operator.api.status import (
    Condition,
    JobStatus,
    StageStatus,
    State,
    Summary,
)
from florence_operator.api.summary import length, percent_done
from florence_operator.api.times import timestamp, unix
from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.observe.observation import Observation
from florence_operator.reconcile.decision import Work
from florence_operator.reconcile.stage_view import live

BLOCKED = "DependencyFailed"
"""The reason of a stage that needs one that failed."""
_IDLE = (State.QUEUED, State.SUSPENDED)
_PRECEDENCE = (
    State.STALLED,
    State.RUNNING,
    State.RECOVERING,
    State.STARTING,
    State.QUEUED,
    State.SUSPENDED,
    State.PENDING,
)
_CONDITIONS = (
    State.QUEUED,
    State.RUNNING,
    State.STALLED,
    State.RECOVERING,
    State.SUSPENDED,
    State.SUCCEEDED,
    State.FAILED,
)


def phase(stages: Sequence[StageStatus], *, suspended: bool) -> State:
    """Where a job stands, from where its stages stand.

    A state that only another version knows counts where no known one says more.
    """
    states = [stage.state for stage in stages]
    if set(states) == {State.SUCCEEDED}:
        return State.SUCCEEDED
    if any(live(stage) for stage in stages):
        return _first(states)
    unfinished = [s for s in stages if not s.state.terminal and s.reason != BLOCKED]
    if not unfinished and State.FAILED in states:
        return State.FAILED
    if suspended:
        return State.SUSPENDED
    return _first(states)


def _first(states: Sequence[State]) -> State:
    found = next((state for state in _PRECEDENCE if state in states), None)
    return found or next(state for state in states if not state.known)


def job_status(seen: Observation, old: JobStatus, stages: tuple[StageStatus, ...]) -> JobStatus:
    """The status of a job whose stages stand as given."""
    now = timestamp(seen.now)
    where = phase(stages, suspended=seen.job.spec.run_policy.suspend)
    begun = any(stage.attempts for stage in stages)
    fields: dict[str, Any] = {
        "observed_generation": seen.job.metadata.generation,
        "phase": where,
        "stages": stages,
        "summary": summary(seen.job, stages, old.summary.goodput),
        "start_time": old.start_time or (now if begun and any(map(live, stages)) else None),
        "completion_time": (old.completion_time or now) if where.terminal else None,
        "idle_seconds": old.idle_seconds,
    }
    idle = idle_since(old)
    if idle is not None and where not in _IDLE and old.start_time is not None:
        fields["idle_seconds"] += max(0.0, seen.now - idle)
    status = old.model_copy(update=fields)
    reason, message = story(status)
    return status.model_copy(
        update={
            "conditions": _conditions(
                seen.job.metadata.generation, old, where, reason, message, now
            )
        }
    )


def idle_since(status: JobStatus) -> float | None:
    """Since when the whole job has been queued or suspended; None when it is not."""
    if status.phase not in _IDLE:
        return None
    since = next((c for c in status.conditions if c.type == status.phase), None)
    return unix(since.last_transition_time) if since else None


def invalid(generation: int | None, old: JobStatus, problem: str, now: float) -> JobStatus:
    """The status of a job that cannot be run as it is written; attempts at work are let alone."""
    where = old.phase if any(map(live, old.stages)) else State.PENDING
    conditions = _conditions(generation, old, where, "InvalidSpec", problem, timestamp(now))
    return old.model_copy(update={"observed_generation": generation, "conditions": conditions})


def story(status: JobStatus) -> tuple[str, str]:
    """A word and a sentence about the job as a whole: its stages' own."""
    if status.phase is State.SUCCEEDED:
        return "Succeeded", f"all {len(status.stages)} stages finished" if len(
            status.stages
        ) > 1 else "the stage finished"
    told = [s for s in status.stages if s.state == status.phase and s.message]
    if not told:
        return status.phase, ""
    if len(status.stages) == 1:
        return told[0].reason or status.phase, told[0].message or ""
    said = "; ".join(f"{stage.name}: {stage.message}" for stage in told)
    return told[0].reason or status.phase, said


def _conditions(
    generation: int | None, old: JobStatus, where: State, reason: str, message: str, now: str
) -> tuple[Condition, ...]:
    """One condition for each state that the job is or was in, and always Running.

    Those of other types are another version's, and stay.
    """
    known = {condition.type: condition for condition in old.conditions}
    result = []
    for state in _CONDITIONS:
        before = known.get(state)
        if state is where or state is State.RUNNING:
            is_so = "True" if state is where else "False"
        elif before is not None:
            is_so = "False"
        else:
            continue
        same = before is not None and before.status == is_so
        quiet = is_so == "False" and state is not State.RUNNING
        if quiet and same and before is not None:
            result.append(before)
            continue
        result.append(
            Condition(
                type=state,
                status=is_so,
                reason=where if quiet else reason,
                message="" if quiet else message,
                last_transition_time=before.last_transition_time if same and before else now,
                observed_generation=generation or 0,
            )
        )
    words = {str(state) for state in _CONDITIONS}
    return (*result, *(c for c in old.conditions if c.type not in words))


def summary(job: FlorenceJob, stages: Iterable[StageStatus], goodput: str | None = None) -> Summary:
    """The columns of ``kubectl get florencejobs``."""
    stages = tuple(stages)
    at_work = [stage for stage in stages if live(stage)]
    gpus = sum(
        resources.workers * resources.gpus_per_worker
        for stage in at_work
        if (attempt := live(stage)) is not None and attempt.admission_time is not None
        for resources in (job.spec.stage(stage.name).resources,)
    )
    etas = [s.progress.eta_seconds for s in at_work if s.progress and s.progress.eta_seconds]
    known = [stage.progress for stage in stages if stage.progress]
    losses = [p.loss for p in known if p.loss is not None]
    commits = [p.checkpoint for p in known if p.checkpoint is not None]
    kept = sum(a.gpu_seconds for stage in stages for a in stage.attempts)
    hours = (kept + sum(s.dropped.gpu_seconds for s in stages if s.dropped)) / 3600
    return Summary(
        stage=",".join(stage.name for stage in at_work) or None,
        progress=percent_done(job.spec, stages),
        eta=length(max(etas)) if etas else None,
        loss=f"{losses[-1]:.4f}" if losses else None,
        attempts=sum(stage.last_number for stage in stages),
        gpus=gpus,
        gpu_hours=f"{hours:.2f}" if 0 < hours < 10 else f"{hours:.1f}" if hours else "0",
        checkpoint=commits[-1] if commits else None,
        goodput=goodput,
    )


def announce(job: FlorenceJob, old: JobStatus, new: JobStatus, work: Work) -> None:
    """Record events for what happened to the job as a whole, and to its stages when several."""
    if len(new.stages) > 1:
        for stage in new.stages:
            before = old.stage(stage.name).state
            if stage.state is State.SUCCEEDED and before is not State.SUCCEEDED:
                said = f"stage '{stage.name}' finished"
                work.tell("StageSucceeded", said, action="Finishing")
    if new.phase == old.phase:
        return
    _, message = story(new)
    if new.phase is State.SUCCEEDED:
        work.tell("Succeeded", message, action="Finishing")
    elif new.phase is State.FAILED:
        work.tell("Failed", message, action="Finishing", warning=True)
    elif new.phase is State.SUSPENDED:
        work.tell("Suspended", "its pods are given back", action="Suspending")
    elif old.phase is State.SUSPENDED and not job.spec.run_policy.suspend:
        work.tell("Resumed", "it goes on from its newest checkpoint", action="Resuming")


def urgent(old: JobStatus, new: JobStatus) -> bool:
    """Whether two statuses differ in more than progress, sums and wording."""
    return _essence(old) != _essence(new)


def _essence(status: JobStatus) -> tuple[Any, ...]:
    return (
        status.phase,
        status.observed_generation,
        status.retry,
        tuple((c.type, c.status, c.reason) for c in status.conditions),
        tuple(
            (
                *(
                    stage.name,
                    stage.state,
                    stage.reason,
                    stage.next_attempt_time,
                    stage.first_counted_attempt,
                ),
                *(
                    (a.number, a.stopping, a.completion_time, a.pods_ready_time, a.ranks)
                    for a in stage.attempts[-1:]
                ),
            )
            for stage in status.stages
        ),
    )
