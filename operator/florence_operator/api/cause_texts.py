"""What each cause of a failure means: to whoever's job it is, and to who runs the cluster.

The commands say the first, docs/operations.md is generated from the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from florence_operator.api.failure import Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseText:
    """A cause in words."""

    happened: str
    """What goes on after "attempt 2 …"."""
    remedy: str
    """What the job's owner can do; ``{job}`` and ``{program}`` are filled in."""
    found: str
    """What the operator saw, for the page; Markdown."""
    todo: str
    """What to do about it, for the page; Markdown."""


_FIX_AND_APPLY = (
    "correct the job and submit it under another name, or delete this one and apply it again"
)
_RETRY = "'{program} retry {job}' runs it again from its last checkpoint"

CAUSE_TEXTS: Mapping[Cause, CauseText] = {
    Cause.INVALID_CONFIGURATION: CauseText(
        happened="could not run with its settings",
        remedy=_FIX_AND_APPLY,
        found=(
            "exit code 2: the stage found its settings to be wrong, or that they cannot be "
            "had: memory, a full disk or bucket, a package that the image lacks; or a pod "
            "wrote more than `pods.temporaryStorage` or `pods.sharedMemory`"
        ),
        todo="job's owner: correct the stage, or make room, then `retry`",
    ),
    Cause.UNUSABLE_DATA: CauseText(
        happened="could not use its data",
        remedy="repair the data or its URI; " + _RETRY + " after that",
        found="exit code 3: data is missing or damaged; the message has the URI",
        todo="owner: repair the data, then `retry`",
    ),
    Cause.DIVERGED: CauseText(
        happened="diverged: its loss or gradients stopped being finite",
        remedy=("lower the learning rate, lengthen the warm-up, or use bf16 instead of fp16"),
        found="exit code 4: loss or gradients were not finite for too long",
        todo=(
            "owner: lower the rate, longer warm-up, bf16; then `retry` "
            "([how](#suspend-resume-retry-delete))"
        ),
    ),
    Cause.PROGRAM_FAILED: CauseText(
        happened="ended with an error of the program",
        remedy="read the log ('{program} logs {job}'); once it is mended " + _RETRY,
        found="any other exit code",
        todo="owner: read the log",
    ),
    Cause.OUT_OF_MEMORY: CauseText(
        happened="ran out of memory and was killed",
        remedy=("raise resources.memory, or lower the batch size or the loader's workers"),
        found="the container went over its memory limit (OOMKilled)",
        todo="owner: raise `resources.memory`, or a smaller batch or fewer loader workers",
    ),
    Cause.TRY_AGAIN: CauseText(
        happened="gave up on storage or network",
        remedy=(
            "check that the pods reach the storage ('{program} doctor -f JOB.yaml'); " + _RETRY
        ),
        found="exit code 75: storage or network gave up, or only lost peers were seen",
        todo=(
            "look at MinIO and the network; `florencectl doctor -f JOB.yaml` tries both from a pod"
        ),
    ),
    Cause.KILLED: CauseText(
        happened="was killed from outside",
        remedy=_RETRY,
        found="exit code 137 without OOMKilled",
        todo=(
            "who sent SIGKILL? With cgroup v1 a process killed for memory looks like this: "
            "see the node's kernel log"
        ),
    ),
    Cause.STOPPED: CauseText(
        happened="was asked to stop from outside and did so",
        remedy=_RETRY,
        found="exit code 143: asked to stop, by nobody that the operator knows of",
        todo="node shutdown? somebody in the pod?",
    ),
    Cause.EVICTED: CauseText(
        happened="lost a pod that its node evicted",
        remedy="see what the node lacked (kubectl describe node); " + _RETRY,
        found="the kubelet or a drain evicted a pod, or the node turned it away",
        todo="`kubectl describe node`: pressure, drain",
    ),
    Cause.NODE_LOST: CauseText(
        happened="lost a node",
        remedy="check the node (kubectl get nodes); " + _RETRY,
        found="a node was not ready for longer than `failures.nodeGrace`, or is gone",
        todo="repair or remove the node",
    ),
    Cause.POD_DELETED: CauseText(
        happened="lost a pod that somebody deleted",
        remedy=_RETRY,
        found="somebody deleted a pod, or it is missing",
        todo="ask who; the audit log knows",
    ),
    Cause.CHILD_DELETED: CauseText(
        happened="lost its PyTorchJob or TrainJob, which somebody deleted",
        remedy=_RETRY,
        found="somebody deleted the child",
        todo="the same",
    ),
    Cause.STALLED: CauseText(
        happened="made no progress for longer than runPolicy.stallTimeout",
        remedy=(
            "see which rank the others waited for ('{program} evidence {job}'), or allow more "
            "time; " + _RETRY
        ),
        found="heard, and no progress for `stallTimeout`",
        todo=(
            "the message names the rank that the others waited for; see [below](#an-attempt-stalls)"
        ),
    ),
    Cause.NOT_HEARD: CauseText(
        happened="was not heard for longer than runPolicy.silenceTimeout",
        remedy=("see in the log why its reports do not arrive ('{program} logs {job}'); " + _RETRY),
        found="no report for `silenceTimeout`, which the job has to ask for",
        todo="see [below](#progress-does-not-move-although-pods-train)",
    ),
    Cause.PREEMPTED: CauseText(
        happened="gave way to a job of higher priority",
        remedy="it queues again by itself",
        found=(
            "Kueue took the quota back, the child was suspended, or the scheduler preempted a pod"
        ),
        todo="nothing: it queues again",
    ),
    Cause.PODS_READY_TIMEOUT: CauseText(
        happened=(
            "did not have all its pods running within Kueue's waitForPodsReady, or held nodes for "
            "only some of them"
        ),
        remedy="find out why the pods did not start; " + _RETRY + " after that",
        found=(
            "Kueue took the quota back because not all pods ran in time (`waitForPodsReady`), or "
            "only some pods had nodes for `failures.gangDeadline`"
        ),
        todo="why do they not start: [below](#a-job-stays-starting)",
    ),
    Cause.MAXIMUM_EXECUTION_TIME: CauseText(
        happened="was ended by Kueue after its maximum execution time",
        remedy="have that raised; " + _RETRY + " after that",
        found="Kueue ended it after the Workload's maximum execution time",
        todo="whoever set that: raise it, then `retry`",
    ),
    Cause.SUSPENDED: CauseText(
        happened="was suspended",
        remedy="'{program} resume {job}' goes on",
        found="on request, or its Workload was deactivated",
        todo="`florencectl resume JOB`, or activate the Workload",
    ),
    Cause.IMAGE_PULL: CauseText(
        happened="could not pull its image",
        remedy=("check spec.image and spec.pods.imagePullSecrets; " + _RETRY + " after that"),
        found=(
            "a container could not be made for `failures.imagePullDeadline`: image or pull "
            "secret; a missing Secret (`CreateContainerConfigError`) ends as "
            "`InvalidConfiguration` after the same time"
        ),
        todo="the message has the image and the kubelet's words; mend, then `retry`",
    ),
    Cause.UNSCHEDULABLE: CauseText(
        happened="found no nodes for its pods",
        remedy=(
            "check spec.nodePool and the stage's resources against the nodes ('{program} doctor "
            "-f JOB.yaml'); " + _RETRY + " after that"
        ),
        found="`startDeadline` passed while a pod found no node",
        todo="the message has the scheduler's words; `florencectl doctor -f JOB.yaml`",
    ),
    Cause.START_DEADLINE: CauseText(
        happened="did not have all its pods running within runPolicy.startDeadline",
        remedy="find out why the pods did not start; " + _RETRY + " after that",
        found="`startDeadline` passed while pods were starting",
        todo="`kubectl describe pod`; volumes, network plugin, Training Operator",
    ),
    Cause.DEADLINE: CauseText(
        happened="was not done within runPolicy.deadline",
        remedy=("raise runPolicy.deadline (kubectl edit fj {job}); " + _RETRY + " after that"),
        found="`deadline` passed",
        todo="owner: raise it, then `retry`",
    ),
    Cause.REJECTED: CauseText(
        happened="was refused by the cluster",
        remedy=(
            "mend what the message names: a quota, a policy, a missing CRD; "
            + _RETRY
            + " after that"
        ),
        found="the API server refused the child for good (400, 422)",
        todo="the message has its words: mostly a policy or webhook of the cluster",
    ),
}
