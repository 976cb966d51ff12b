"""``why``: one paragraph on why a job stands where it stands, and what to do next.

A pure function of the facts: no clock, no network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from florence_operator.api.child_kinds import PYTORCH_JOB
from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.history import causes, charged
from florence_operator.api.status import Attempt, JobStatus, StageStatus, State
from florence_operator.api.times import unix
from florencectl.cause_texts import happened, remedy
from florencectl.cluster.jobs import status_of
from florencectl.explain.node_strikes import avoided_told
from florencectl.explain.phrases import ago, capital, last_attempt, sentence, since, until
from florencectl.explain.queueing import queue_sentences
from florencectl.explain.snapshot import Snapshot
from florencectl.explain.starting import SLOW_OPERATOR, starting
from florencectl.explain.time_spent import time_told
from florencectl.output import plural
from florencectl.run_display import duration


def why(facts: Snapshot, program: str = "florencectl") -> str:
    """The paragraph."""
    status = status_of(facts.job)
    metadata = facts.job["metadata"]
    if metadata.get("deletionTimestamp"):
        sentences = _deleting(facts)
    elif status.observed_generation is None and not status.stages:
        sentences = _unseen(facts, program)
    else:
        stage = focus(status)
        sentences = _BY_STATE.get(status.phase, _in_another_state)(facts, status, stage, program)
    lead = f"Job '{metadata['name']}' "
    return lead + " ".join(filter(None, sentences))


def focus(status: JobStatus) -> StageStatus:
    """The stage that the job's state comes from: one in that state, or else one not finished."""
    in_state = [stage for stage in status.stages if stage.state == status.phase]
    unfinished = [stage for stage in status.stages if not stage.state.terminal]
    candidates = in_state or unfinished or list(status.stages)
    return candidates[0] if candidates else StageStatus(name="?")


def _deleting(facts: Snapshot) -> list[str]:
    metadata = facts.job["metadata"]
    sentences = [f"is being deleted since {ago(metadata['deletionTimestamp'], facts)}."]
    left = [pod["metadata"]["name"] for pod in facts.pods]
    if left:
        sentences.append(f"Pods that have not ended: {', '.join(left[:5])}.")
    if metadata.get("finalizers"):
        sentences.append(
            "The operator still removes its artifacts or frees its pods (finalizers: "
            f"{', '.join(metadata['finalizers'])})."
        )
    return sentences


def _unseen(facts: Snapshot, program: str) -> list[str]:
    created = unix(facts.job["metadata"].get("creationTimestamp")) or facts.now
    waited = facts.now - created
    sentences = [f"was created {duration(waited)} ago and the operator has not looked at it yet."]
    if waited >= SLOW_OPERATOR:
        sentences.append(
            "That takes a second when the operator runs and watches this namespace: "
            f"'{program} doctor' tells whether it does."
        )
    return sentences


def _pending(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    sentences = [f"is pending: stage '{stage.name}' has not started."]
    after = [
        name
        for name in facts.stage_spec(stage.name).get("dependsOn") or ()
        if status.stage(name).state is not State.SUCCEEDED
    ]
    if after:
        states = ", ".join(f"'{name}' ({status.stage(name).state.value})" for name in after)
        sentences.append(f"It waits for {states}.")
    sentences.append(sentence(stage.message))
    if stage.next_attempt_time:
        sentences.append(f"It starts {until(stage.next_attempt_time, facts)}.")
    return sentences


def _queued(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    attempt = last_attempt(stage)
    waited = f" for {since(attempt.start_time, facts)}" if attempt and attempt.start_time else ""
    queue = facts.policy.get("queue")
    sentences = [
        f"is queued: stage '{stage.name}' has waited{waited} in the queue '{queue}' "
        f"{_request(facts, stage)}."
    ]
    child = attempt.job_ref if attempt else None
    told = queue_sentences(
        facts,
        child.name if child else None,
        queue,
        child.kind if child else PYTORCH_JOB.name,
    )
    sentences += told or [sentence(stage.message)]
    namespace = facts.job["metadata"].get("namespace", "default")
    sentences.append(
        f"It starts by itself when there is room; 'kubectl get workloads -n {namespace}' shows "
        "who else waits."
    )
    return sentences


def _running(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    attempt = last_attempt(stage)
    number = f" (attempt {attempt.number})" if attempt and attempt.number > 1 else ""
    begun = f" for {since(attempt.pods_ready_time or attempt.start_time, facts)}" if attempt else ""
    sentences = [
        f"runs: stage '{stage.name}'{number} has been at work{begun} {_request(facts, stage)}."
    ]
    sentences.append(progress_told(stage))
    if stage.reason == "NotHeard":
        sentences.append(sentence(stage.message))
    others = [s.name for s in status.stages if s.state is State.RUNNING and s.name != stage.name]
    if others:
        sentences.append(f"Beside it: {', '.join(others)}.")
    sentences += [past_told(stage), avoided_told(stage), time_told(stage, facts.now)]
    return sentences


def _stalled(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    attempt = last_attempt(stage)
    limit = facts.policy.get("stallTimeout", "10m")
    moved = (
        ago(attempt.last_progress_time, facts)
        if attempt and attempt.last_progress_time
        else "some time ago"
    )
    return [
        f"is stalled: stage '{stage.name}' last got further {moved}; {limit} without progress is "
        "allowed.",
        progress_told(stage),
        sentence(stage.message),
        "The operator replaces the attempt, which goes on from the newest checkpoint; "
        f"'{program} evidence {facts.name}' then shows what its ranks did.",
    ]


def _recovering(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    failed = _last_failed(stage)
    sentences = [f"is recovering: stage '{stage.name}' is tried again."]
    if failed:
        sentences.append(f"{capital(happened(failed))}.")
        sentences.append(_budget(facts, stage, failed))
    if stage.next_attempt_time:
        sentences.append(
            f"The next attempt starts {until(stage.next_attempt_time, facts)}{_from(stage)}."
        )
    else:
        sentences.append(sentence(stage.message))
    if failed and failed.cause and budget_of(failed.cause) is Budget.APPLICATION:
        sentences.append(f"If it happens again: {remedy(failed.cause, facts.name, program)}.")
    return sentences


def _suspended(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    held = [pod["metadata"]["name"] for pod in facts.pods if _alive(pod)]
    asked = bool(facts.policy.get("suspend"))
    sentences = ["is suspended.", "" if asked else sentence(stage.message)]
    if held:
        sentences.append(f"Pods that are still writing their checkpoint: {', '.join(held[:5])}.")
    if asked:
        kept = f"goes on{_from(stage)}" if stage.attempts else "starts it"
        sentences.append(f"'{program} resume {facts.name}' {kept}.")
    return sentences


def _succeeded(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    took = ""
    if status.start_time and status.completion_time:
        seconds = (unix(status.completion_time) or 0.0) - (unix(status.start_time) or 0.0)
        took = f" in {duration(seconds)}"
    last = status.stages[-1] if status.stages else stage
    results = ", ".join(f"{name} {value:.4g}" for name, value in list(last.metrics.items())[:4])
    model = next((s.model for s in reversed(status.stages) if s.model), None)
    return [
        f"succeeded{took} ({status.summary.gpu_hours} GPU-hours).",
        time_told(last, facts.now),
        f"Results of stage '{last.name}': {results}." if results else "",
        f"The model is {model}." if model else "",
    ]


def _failed(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    failed = _last_failed(stage)
    if failed is None or failed.cause is None:
        return [f"failed in stage '{stage.name}'.", sentence(stage.message)]
    tried = stage.last_number
    sentences = [
        f"failed in stage '{stage.name}' after {plural(tried, 'attempt')}.",
        f"{capital(happened(failed))}.",
    ]
    if stage.message and (failed.message or "") not in stage.message:
        sentences.append(sentence(stage.message))
    if failed.last_lines and not failed.message:
        sentences.append(f"Its last line was: {failed.last_lines[-1].strip()}")
    sentences.append(f"What to do: {remedy(failed.cause, facts.name, program)}.")
    return sentences


def _in_another_state(
    facts: Snapshot, status: JobStatus, stage: StageStatus, program: str
) -> list[str]:
    return [
        f"is in state {status.phase.value}, which the operator's version knows and this program's "
        "does not.",
        sentence(stage.message),
    ]


_Explain = Callable[[Snapshot, JobStatus, StageStatus, str], list[str]]
_BY_STATE: Mapping[State, _Explain] = {
    State.PENDING: _pending,
    State.QUEUED: _queued,
    State.STARTING: starting,
    State.RUNNING: _running,
    State.STALLED: _stalled,
    State.RECOVERING: _recovering,
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
    State.SUSPENDED: _suspended,
}


def progress_told(stage: StageStatus) -> str:
    """How far a stage is, in sentences."""
    progress = stage.progress
    if progress is None or not progress.total:
        return "It has not told of any step yet."
    percent = 100 * progress.step // progress.total
    parts = [f"step {progress.step} of {progress.total} ({percent} %)"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4f}")
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:.0f} samples/s")
    if progress.eta_seconds is not None:
        parts.append(f"about {duration(progress.eta_seconds)} left")
    kept = (
        f" The newest checkpoint is of step {progress.checkpoint_step}."
        if progress.checkpoint_step
        else ""
    )
    return f"{capital(', '.join(parts))}.{kept}"


def past_told(stage: StageStatus) -> str:
    """How a stage's failed attempts ended, in a sentence; empty when there are none."""
    counted = ", ".join(f"{count} {cause}" for cause, count in causes(stage).items())
    return f"Earlier attempts ended: {counted}." if counted else ""


def _budget(facts: Snapshot, stage: StageStatus, failed: Attempt) -> str:
    cause = failed.cause or Cause.PROGRAM_FAILED
    budget = budget_of(cause)
    if budget is Budget.FREE:
        return "That costs none of its retries."
    retries = facts.policy.get("retries") or {}
    usual = {Budget.INFRASTRUCTURE: 20, Budget.APPLICATION: 2}
    if budget not in usual:
        return ""
    allowed = retries.get(budget.value, usual[budget])
    return f"That is retry {charged(stage)[budget]} of {allowed} for {budget.value} failures."


def _from(stage: StageStatus) -> str:
    step = stage.progress.checkpoint_step if stage.progress else None
    return f" from the checkpoint of step {step}" if step else ""


def _request(facts: Snapshot, stage: StageStatus) -> str:
    pods = f"with {plural(facts.workers(stage.name), 'pod')}"
    gpus = facts.gpus(stage.name)
    return f"{pods} of {plural(gpus, 'GPU')}" if gpus else pods


def _last_failed(stage: StageStatus) -> Attempt | None:
    return next((a for a in reversed(stage.attempts) if a.cause), None)


def _alive(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
