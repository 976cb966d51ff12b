"""A stalled attempt's record names the rank that the others wait for."""

from __future__ import annotations

from typing import Any

from florence_operator.api.failure import Cause
from florence_operator.api.ranks import RankGroup
from florence_operator.api.status import Attempt, State
from florence_operator.api.termination import Termination
from florence_operator.reconcile.stage_view import changed
from florence_operator.reconcile.status import urgent
from tests.operator.reconcile.test_decide import running
from tests.operator.simulated_operator import Cluster

WAITING = RankGroup(ranks="0", collective="all_reduce", place="florence/stages/trainer.py:221 sum")
READING = RankGroup(ranks="1", place="florence/data/shards.py:88 read")
SAID = (
    "it made no progress for 10m: rank 0 waits in all_reduce (florence/stages/trainer.py:221 sum); "
    "rank 1 is in florence/data/shards.py:88 read"
)


def stalled(**policy: Any) -> Cluster:
    subject = running(stallTimeout="10m", **policy)
    while subject.status.phase is not State.STALLED:  # heard for as long, and no further
        subject.now += 100
        subject.report("a", 1, 5)
        subject.reconcile()
    return subject


def leave(subject: Cluster, index: int, *groups: RankGroup) -> None:
    """A pod ends and is gone before the operator looks again."""
    pod = next(pod for pod in subject.pods.values() if pod.index == index)
    subject.end(pod, 143, message=Termination(asked_to_stop=True, ranks=groups).encode())
    subject.reconcile()
    del subject.pods[pod.uid]
    subject.reconcile()


def last(subject: Cluster) -> Attempt:
    return subject.status.stages[0].attempts[-1]


def test_pods_that_go_one_after_the_other_name_the_rank_together() -> None:
    subject = stalled()
    leave(subject, 0, WAITING)
    assert last(subject).completion_time is None
    assert last(subject).ranks == (WAITING,)
    leave(subject, 1, READING)
    assert last(subject).cause is Cause.STALLED
    assert last(subject).message == SAID
    assert SAID in (subject.status.stages[0].message or "")
    assert last(subject).ranks == ()


def test_without_evidence_the_record_says_what_it_did() -> None:
    subject = stalled()
    leave(subject, 0)
    leave(subject, 1)
    assert last(subject).message == "it made no progress for 10m"


def test_what_a_pod_told_is_written_at_once() -> None:
    """It is told once: the pod is gone when the operator starts again."""
    subject = stalled()
    status = subject.status
    attempt = last(subject).model_copy(update={"ranks": (WAITING,)})
    after = changed(status.stages[0], attempts=(attempt,))
    assert urgent(status, status.model_copy(update={"stages": (after,)}))
