"""What each cause of a failure means to a user, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from florence_operator.api.failure import Cause
from florence_operator.api.status import Attempt


@dataclass(frozen=True, slots=True)
class Meaning:
    """A cause in plain words."""

    happened: str
    remedy: str


_FIX_AND_APPLY = (
    "correct the job and submit it under another name, or delete this one and apply it again"
)
_RETRY = "'{program} retry {job}' runs it again from its last checkpoint"

MEANINGS: dict[Cause, Meaning] = {
    Cause.INVALID_CONFIGURATION: Meaning("could not run with its settings", _FIX_AND_APPLY),
    Cause.UNUSABLE_DATA: Meaning(
        "could not use its data", "repair the data or its URI; " + _RETRY + " after that"
    ),
    Cause.DIVERGED: Meaning(
        "diverged: its loss or gradients stopped being finite",
        "lower the learning rate, lengthen the warm-up, or use bf16 instead of fp16",
    ),
    Cause.PROGRAM_FAILED: Meaning(
        "ended with an error of the program",
        "read the log ('{program} logs {job}'); once it is mended " + _RETRY,
    ),
    Cause.OUT_OF_MEMORY: Meaning(
        "ran out of memory and was killed",
        "raise resources.memory, or lower the batch size or the loader's workers",
    ),
    Cause.TRY_AGAIN: Meaning(
        "gave up on storage or network",
        "check that the pods reach the storage ('{program} doctor -f JOB.yaml'); " + _RETRY,
    ),
    Cause.KILLED: Meaning("was killed from outside", _RETRY),
    Cause.STOPPED: Meaning("was asked to stop from outside and did so", _RETRY),
    Cause.EVICTED: Meaning(
        "lost a pod that its node evicted",
        "see what the node lacked (kubectl describe node); " + _RETRY,
    ),
    Cause.NODE_LOST: Meaning("lost a node", "check the node (kubectl get nodes); " + _RETRY),
    Cause.POD_DELETED: Meaning("lost a pod that somebody deleted", _RETRY),
    Cause.CHILD_DELETED: Meaning("lost its PyTorchJob or TrainJob, which somebody deleted", _RETRY),
    Cause.NOT_HEARD: Meaning(
        "was not heard for longer than runPolicy.silenceTimeout",
        "see in the log why its reports do not arrive ('{program} logs {job}'); " + _RETRY,
    ),
    Cause.PODS_READY_TIMEOUT: Meaning(
        "did not have all its pods running within Kueue's waitForPodsReady, or held nodes for "
        "only some of them",
        "find out why the pods did not start; " + _RETRY + " after that",
    ),
    Cause.MAXIMUM_EXECUTION_TIME: Meaning(
        "was ended by Kueue after its maximum execution time",
        "have that raised; " + _RETRY + " after that",
    ),
    Cause.STALLED: Meaning(
        "made no progress for longer than runPolicy.stallTimeout",
        "see which rank the others waited for ('{program} evidence {job}'), or allow more time; "
        + _RETRY,
    ),
    Cause.PREEMPTED: Meaning("gave way to a job of higher priority", "it queues again by itself"),
    Cause.SUSPENDED: Meaning("was suspended", "'{program} resume {job}' goes on"),
    Cause.IMAGE_PULL: Meaning(
        "could not pull its image",
        "check spec.image and spec.pods.imagePullSecrets; " + _RETRY + " after that",
    ),
    Cause.UNSCHEDULABLE: Meaning(
        "found no nodes for its pods",
        "check spec.nodePool and the stage's resources against the nodes ('{program} doctor "
        "-f JOB.yaml'); " + _RETRY + " after that",
    ),
    Cause.START_DEADLINE: Meaning(
        "did not have all its pods running within runPolicy.startDeadline",
        "find out why the pods did not start; " + _RETRY + " after that",
    ),
    Cause.DEADLINE: Meaning(
        "was not done within runPolicy.deadline",
        "raise runPolicy.deadline (kubectl edit fj {job}); " + _RETRY + " after that",
    ),
    Cause.REJECTED: Meaning(
        "was refused by the cluster",
        "mend what the message names: a quota, a policy, a missing CRD; " + _RETRY + " after that",
    ),
}


def _meaning(cause: Cause) -> Meaning:
    """What a cause means; one that only another version knows is at least named."""
    known = MEANINGS.get(cause)
    newer = "install this program in the operator's version, which knows it; " + _RETRY
    return known or Meaning(f"ended ({cause.value})", newer)


def happened(attempt: Attempt) -> str:
    """What ended an attempt: ``attempt 2 ran out of memory and was killed (pod x, node n, …)``."""
    if attempt.cause is None:
        done = "succeeded" if attempt.exit_code == 0 else "ended"
        return f"attempt {attempt.number} {done}"
    where = [
        f"pod {attempt.pod}" if attempt.pod else "",
        f"node {attempt.node}" if attempt.node else "",
        f"exit code {attempt.exit_code}" if attempt.exit_code is not None else "",
    ]
    evidence = ", ".join(filter(None, where))
    text = f"attempt {attempt.number} {_meaning(attempt.cause).happened}"
    if evidence:
        text += f" ({evidence})"
    return f"{text}: {attempt.message.strip().rstrip('.')}" if attempt.message else text


def remedy(cause: Cause, job: str, program: str) -> str:
    """What a user can do about a cause."""
    return _meaning(cause).remedy.format(job=job, program=program)
