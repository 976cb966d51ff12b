"""How an attempt failed: which pod is believed, and what it points to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from florence_operator.api.attempt_pods import Pod, Terminated
from florence_operator.api.blame import Strike
from florence_operator.api.failure import Cause, cause_of_exit
from florence_operator.api.termination import last_words
from florence_operator.backends.protocol import Child, ChildState
from florence_operator.observe.nodes import Node

_EVICTIONS = ("Evicted", "NodeShutdown", "Terminated", "Preempting", "Shutdown")
_OVER_ITS_VOLUME = "Usage of EmptyDir volume"
"""In the kubelet's words when it evicts a pod for what the pod wrote itself."""
_TORN_DOWN = (137, 143)
_NODE_PRESSURE = ("The node was low on resource", "The node had condition")
"""In the kubelet's words when it evicts pods because the node is short of something."""
_BROKEN_DEVICE = re.compile(
    r"Xid \([^)]*\): (48|62|63|64|74|79|92|94|95|119|120)\b|"
    r"uncorrectable (ECC|NVLink) error|fallen off the bus|"
    r"no CUDA-capable device is detected|Unable to determine the device handle",
    re.IGNORECASE,
)
"""In the words of drivers and libraries whose device is gone or damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an attempt ended without success."""

    cause: Cause
    message: str
    pod: str | None = None
    node: str | None = None
    exit_code: int | None = None
    last_lines: tuple[str, ...] = ()
    logs: str | None = None
    strike: Strike | None = None
    """Why it counts against the node, where it does."""


def stuck_from(pod: Pod, grace: float) -> float:
    """From when on a pod counts as lost because it outlives its deletion; infinity for never.

    Processes that wait for a GPU or a file server cannot be killed, and their node answers all the
    same.
    """
    return pod.gone_by + grace if pod.deleting and not pod.over else math.inf


def away_from(pod: Pod, nodes: Mapping[str, Node | None] | None, grace: float) -> float:
    """From when on the node of a pod counts as lost; infinity for never, or not known."""
    if pod.over or nodes is None or pod.node is None or pod.node not in nodes:
        return math.inf
    node = nodes[pod.node]
    if node is None:
        return -math.inf
    return math.inf if node.ready else node.since + grace


def failing(pods: Iterable[Pod]) -> list[Pod]:
    """The pods that failed, or that somebody is deleting while they run."""
    return [
        pod
        for pod in pods
        if pod.phase == "Failed"
        or (pod.terminated is not None and pod.terminated.exit_code != 0)
        or (pod.deleting and pod.phase == "Running")
    ]


def culprits(bad: Sequence[Pod]) -> list[Pod]:
    """The failing pods without those that were only torn down because another one had failed."""
    own = [
        (pod, pod.terminated.finished)
        for pod in bad
        if pod.terminated and not _ended_by_deletion(pod, pod.terminated)
    ]
    first = min((finished for _, finished in own), default=math.inf)
    by_themselves = [pod for pod, _ in own]
    return [pod for pod in bad if pod in by_themselves or pod.disruption or pod.deleted < first]


def _ended_by_deletion(pod: Pod, end: Terminated) -> bool:
    """Whether its deletion ended the pod's program.

    The pod's first process knows whether its program had ended when it was asked to stop. Without
    its word the two times are compared: it may have been killed before it could say anything.
    """
    if not pod.deleting:
        return False
    asked = last_words(end.message).asked_to_stop
    return pod.deleted < end.finished if asked is None else asked


def verdict(
    pods: Sequence[Pod], child: Child | None, *, workers: int, ran: bool, now: float, settle: float
) -> Ending | float | None:
    """How an attempt failed; or when to look again, since other pods may tell more; or None.

    ``ran`` says that all of its pods were seen running: one that is missing then was deleted.
    """
    bad = culprits(failing(pods))
    there = {pod.index for pod in pods if not (ran and pod.phase == "Pending")}
    absent = [index for index in range(workers) if index not in there] if ran else []
    child_failed = child is not None and child.state is ChildState.FAILED
    if not bad and not absent and not child_failed:
        return None
    settled = all(pod.over for pod in pods) and (len(pods) >= workers or child_failed)
    moment = _settled_at(bad, child, absent, now, settle)
    if now < moment and not settled:
        return moment
    return _ending(bad, child, absent)


def _settled_at(
    bad: Sequence[Pod], child: Child | None, absent: Sequence[int], now: float, settle: float
) -> float:
    """When the pods have told all that they will; clocks of nodes may be wrong, so never late.

    Who deletes a pod may be known a moment later: its PyTorchJob is suspended or deleted as well.
    """
    if bad:
        first = min(
            pod.terminated.finished if pod.terminated else pod.deleted or -math.inf for pod in bad
        )
    else:
        first = -math.inf if absent or child is None else child.since
    return first + settle if first <= now else now


def _ending(bad: Sequence[Pod], child: Child | None, absent: Sequence[int]) -> Ending:
    first = min(bad, key=_rank, default=None)
    tier, cause = _judged(first) if first else (4, Cause.POD_DELETED)
    if first is not None and (tier < 2 or not absent):
        return _told_by(first, cause)
    which = ", ".join(str(index) for index in absent)
    gone = f"the pod of worker {which} is gone" if absent else ""
    said = child.message if child else ""
    message = (
        gone
        or said
        or f"the {child.kind if child else 'child'} failed and none of its pods says why"
    )
    return Ending(cause=Cause.POD_DELETED, message=message)


def first_failure(pods: Iterable[Pod]) -> Ending | None:
    """What the pods' own failures say, when one of them is more than being torn down."""
    first = min(culprits(failing(pods)), key=_rank, default=None)
    if first is None or _judged(first)[0] >= 2:
        return None
    return _told_by(first, _judged(first)[1])


def _rank(pod: Pod) -> tuple[int, bool, float, int]:
    """Order in which failing pods are believed: the first one is the culprit."""
    finished = pod.terminated.finished if pod.terminated else math.inf
    return _judged(pod)[0], pod.deleting, finished, pod.index


def _judged(pod: Pod) -> tuple[int, Cause]:
    """How much a failing pod explains, 0 the most, and what it points to.

    What happened to the pod from outside comes first, then what its program did, then its being
    stopped; a program that says that it lost its peers explains nothing.
    """
    if pod.disruption:
        preempted = pod.disruption == "PreemptionByScheduler"
        return 0, Cause.PREEMPTED if preempted else Cause.EVICTED
    if _OVER_ITS_VOLUME in pod.message:
        return 0, Cause.INVALID_CONFIGURATION
    if pod.reason in _EVICTIONS:
        return 0, Cause.EVICTED
    if pod.reason == "NodeLost":
        return 0, Cause.NODE_LOST
    end = pod.terminated
    if end is None:
        # A pod that failed without running was turned away by its node.
        return (2, Cause.POD_DELETED) if pod.deleting else (0, Cause.EVICTED)
    if end.reason == "OOMKilled":
        return 1, Cause.OUT_OF_MEMORY
    if _ended_by_deletion(pod, end) and end.exit_code in _TORN_DOWN:
        return 2, Cause.POD_DELETED
    if last_words(end.message).lost_peer:
        return 3, Cause.TRY_AGAIN
    if end.exit_code == 143:
        return 2, Cause.STOPPED
    return 1, cause_of_exit(end.exit_code) or Cause.POD_DELETED


def _told_by(pod: Pod, cause: Cause) -> Ending:
    end = pod.terminated
    words = last_words(end.message if end else "")
    said = words.failure or pod.message
    if cause is Cause.OUT_OF_MEMORY:
        said = f"out of memory: the container went over its limit{f' ({said})' if said else ''}"
    elif cause is Cause.POD_DELETED:
        said = said or "somebody deleted the pod"
    elif not said:
        word = pod.disruption or pod.reason or (end.reason if end else "")
        said = word or "it did not say why"
    return Ending(
        cause=cause,
        message=said,
        pod=pod.name,
        node=pod.node,
        exit_code=end.exit_code if end else None,
        last_lines=words.lines,
        logs=words.logs,
        strike=_strike(pod, cause, (said, *words.lines)),
    )


def _strike(pod: Pod, cause: Cause, said: Iterable[str]) -> Strike | None:
    """Whether the end of a pod counts against its node: a drain, or the program's own, does not."""
    if cause is Cause.NODE_LOST or pod.disruption == "DeletionByTaintManager":
        return Strike.NODE_LOST
    if cause is Cause.EVICTED and any(words in pod.message for words in _NODE_PRESSURE):
        return Strike.NODE_PRESSURE
    broken = any(_BROKEN_DEVICE.search(line) for line in said)
    if broken or (pod.terminated is None and pod.reason == "UnexpectedAdmissionError"):
        return Strike.DEVICE
    return None
