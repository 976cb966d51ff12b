"""``why`` for a job of this machine: where it stands and what to do, in one paragraph."""

from __future__ import annotations

from florence_operator.api.failure import Cause
from florence_operator.api.status import JobStatus, StageStatus, State
from florence_operator.api.times import unix
from florencectl.cause_texts import happened
from florencectl.cluster.jobs import status_of
from florencectl.explain.phrases import capital, last_attempt, sentence, since, until
from florencectl.explain.snapshot import Snapshot
from florencectl.explain.why import focus, past_told, progress_told
from florencectl.output import plural
from florencectl.program import local_command
from florencectl.run_display import duration

_CHANGE = (
    "change what the message names and submit it again; settings that decide the result need "
    "--again or another name"
)
_REMEDIES: dict[Cause, str] = {
    Cause.INVALID_CONFIGURATION: _CHANGE,
    Cause.OUT_OF_MEMORY: _CHANGE,
    Cause.UNUSABLE_DATA: "repair the data or its URI; then {resume}",
    Cause.DIVERGED: "lower the learning rate, lengthen the warm-up, or use bf16 instead of fp16",
    Cause.PROGRAM_FAILED: "read the log ({logs}); once it is mended {resume}",
    Cause.TRY_AGAIN: "check that the storage answers; then {resume}",
}
_GO_ON = "{resume}"


def why(facts: Snapshot, program: str = "florencectl") -> str:
    """The paragraph. A pure function of the facts."""
    status = status_of(facts.job)
    stage = focus(status)
    namespace = str(facts.job["metadata"].get("namespace") or "default")
    told = {verb: f"'{local_command(verb, namespace, facts.name)}'" for verb in ("resume", "logs")}
    told["resume"] += " goes on from its last checkpoint" if stage.attempts else " starts it"
    tell = _BY_STATE.get(status.phase, _running)
    return f"Job '{facts.name}' " + " ".join(filter(None, tell(facts, status, stage, told)))


def _pending(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    return [f"has not begun. {capital(told['resume'])}."]


def _running(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    attempt = last_attempt(stage)
    number = f" (attempt {attempt.number})" if attempt and attempt.number > 1 else ""
    begun = f" for {since(attempt.start_time, facts)}" if attempt else ""
    return [
        f"runs on this machine: stage '{stage.name}'{number} has been at work{begun}.",
        progress_told(stage),
        past_told(stage),
    ]


def _recovering(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    failed = last_attempt(stage)
    sentences = [f"is recovering: stage '{stage.name}' is tried again."]
    if failed:
        sentences.append(f"{capital(happened(failed))}.")
    if stage.next_attempt_time:
        sentences.append(f"The next attempt starts {until(stage.next_attempt_time, facts)}.")
    return sentences


def _suspended(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    return [f"is stopped in stage '{stage.name}'.", _checkpoint(stage), f"{told['resume']}."]


def _succeeded(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    begun, ended = unix(status.start_time), unix(status.completion_time)
    took = f" in {duration(ended - begun)}" if begun and ended else ""
    last = status.stages[-1]
    results = ", ".join(f"{name} {value:.4g}" for name, value in list(last.metrics.items())[:4])
    model = next((s.model for s in reversed(status.stages) if s.model), None)
    return [
        f"succeeded{took}.",
        f"Results of stage '{last.name}': {results}." if results else "",
        f"The model is {model}." if model else "",
    ]


def _failed(
    facts: Snapshot, status: JobStatus, stage: StageStatus, told: dict[str, str]
) -> list[str]:
    failed = last_attempt(stage)
    sentences = [f"failed in stage '{stage.name}' after {plural(stage.last_number, 'attempt')}."]
    if failed is None or failed.cause is None:
        sentences.append(sentence(stage.message))
    else:
        sentences.append(f"{capital(happened(failed))}.")
    remedy = _REMEDIES.get(failed.cause, _GO_ON) if failed and failed.cause else _GO_ON
    return [*sentences, _checkpoint(stage), f"What to do: {remedy.format(**told)}."]


def _checkpoint(stage: StageStatus) -> str:
    step = stage.progress.checkpoint_step if stage.progress else None
    return f"Its newest checkpoint is of step {step}." if step else ""


_BY_STATE = {
    State.PENDING: _pending,
    State.RECOVERING: _recovering,
    State.SUSPENDED: _suspended,
    State.SUCCEEDED: _succeeded,
    State.FAILED: _failed,
}
