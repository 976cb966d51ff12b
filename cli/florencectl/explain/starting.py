"""Why the pods of an attempt do not run yet."""

from __future__ import annotations

from florence_operator.api.attempt_pods import Pod
from florence_operator.api.status import Attempt, JobStatus, StageStatus
from florence_operator.api.times import unix
from florencectl.cluster.node_fit import node_fits, shortage
from florencectl.explain.phrases import child_of, last_attempt, maker_of, names, sentence
from florencectl.explain.snapshot import Snapshot
from florencectl.output import plural
from florencectl.run_display import duration

SLOW_OPERATOR = 30.0


def starting(facts: Snapshot, status: JobStatus, stage: StageStatus, program: str) -> list[str]:
    attempt = last_attempt(stage)
    if attempt is None:
        return [f"is starting stage '{stage.name}'.", sentence(stage.message)]
    begun = attempt.admission_time or attempt.start_time
    waited = facts.now - (unix(begun) or facts.now)
    pods = facts.pods_of(stage.name, attempt.number)
    workers = facts.workers(stage.name)
    running = sum(pod.phase == "Running" for pod in pods)
    sentences = [
        f"is starting: {running} of {plural(workers, 'pod')} of stage '{stage.name}' (attempt "
        f"{attempt.number}) run after {duration(waited)}."
    ]
    if not pods:
        return sentences + _no_pods(facts, attempt, stage, waited, program)
    sentences += _waiting_pods(facts, stage, pods, waited)
    limit = facts.policy.get("startDeadline")
    if limit:
        sentences.append(f"The stage fails when they do not all run within {limit}.")
    return sentences


def _no_pods(
    facts: Snapshot, attempt: Attempt, stage: StageStatus, waited: float, program: str
) -> list[str]:
    warnings = [e for e in facts.events_about_child(attempt) if e.kind == "Warning"]
    if warnings:
        return [f"There are no pods yet: {warnings[-1].message.rstrip('.')}."]
    if waited >= SLOW_OPERATOR:
        return [
            f"{maker_of(attempt)} has not made the pods of {child_of(attempt)}: "
            f"'{program} doctor' tells whether it runs.",
            sentence(stage.message),
        ]
    return ["The pods are being made."]


def _waiting_pods(facts: Snapshot, stage: StageStatus, pods: list[Pod], waited: float) -> list[str]:
    """What keeps the pods that do not run, worst first."""
    unscheduled = [pod for pod in pods if pod.unschedulable and not pod.node]
    if unscheduled:
        return [
            f"No node takes {names(unscheduled)}: {unscheduled[0].unschedulable.rstrip('.')}.",
            room_sentence(facts, stage.name),
        ]
    stuck = [pod for pod in pods if pod.waiting_reason not in ("", *_ORDINARY_WAITS)]
    if stuck:
        first = stuck[0]
        message = f": {first.waiting_message.rstrip('.')}" if first.waiting_message else ""
        advice = _WAIT_ADVICE.get(first.waiting_reason, "")
        return [f"{names(stuck)} cannot start ({first.waiting_reason}{message}).", advice]
    unseen = [pod for pod in pods if pod.phase == "Pending" and not pod.node]
    if unseen:
        # Neither a node nor a word on why there is none: nothing can be pulled or mounted yet.
        advice = "That takes a second: see whether kube-scheduler runs."
        return [
            f"No scheduler has looked at {names(unseen)} yet.",
            advice if waited >= SLOW_OPERATOR else "",
        ]
    waiting = [pod for pod in pods if pod.phase == "Pending"]
    if waiting:
        warnings = [
            event
            for pod in waiting
            for event in facts.events_about("Pod", pod.name)
            if event.kind == "Warning"
        ]
        if warnings:
            return [f"{names(waiting)}: {warnings[-1].message.rstrip('.')}."]
        return [f"{names(waiting)} pulls its image or mounts its volumes; that may take minutes."]
    return ["All pods run; the stage loads its data and model before it tells of its first step."]


_ORDINARY_WAITS = ("ContainerCreating", "PodInitializing")
_WAIT_ADVICE = {
    **dict.fromkeys(
        ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"),
        "Check spec.image, and spec.pods.imagePullSecrets for a private registry.",
    ),
    "CreateContainerConfigError": "Check that the Secrets that the job names exist in its "
    "namespace, with the keys that it needs.",
}


def room_sentence(facts: Snapshot, stage: str) -> str:
    """What a stage asks of the nodes and what they have; empty when they may not be read."""
    if facts.nodes is None:
        return ""
    pool = (facts.job.get("spec") or {}).get("nodePool") or {}
    selector = pool.get("selector") or {}
    found = node_fits(facts.nodes, facts.all_pods, selector, pool.get("tolerations") or ())
    return shortage(found, facts.workers(stage), facts.gpus(stage), selector)
