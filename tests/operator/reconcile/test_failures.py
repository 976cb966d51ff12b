from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence_operator.api.attempt_pods import Pod, Terminated
from florence_operator.api.blame import Strike
from florence_operator.api.failure import Budget, Cause, budget_of
from florence_operator.api.history import charged
from florence_operator.api.retrying import sequel
from florence_operator.api.run_policy import Retries
from florence_operator.api.status import Attempt, StageStatus
from florence_operator.backends.protocol import Child, ChildState
from florence_operator.observe.nodes import Node
from florence_operator.reconcile.failures import Ending, away_from, stuck_from, verdict
from florence_operator.settings import Failures

NOW = 1000.0
NEVER = float("inf")
CHILD = Child(kind="PyTorchJob", name="c", uid="u", stage="s", attempt=1)
FAILED = replace(CHILD, state=ChildState.FAILED, since=NOW - 60)


def pod(index: int = 0, **fields: Any) -> Pod:
    known: dict[str, Any] = {"phase": "Running", "node": f"n{index}", **fields}
    return Pod(name=f"p{index}", uid=f"u{index}", stage="s", attempt=1, index=index, **known)


def ended(index: int, code: int, *, at: float = NOW - 60, **fields: Any) -> Pod:
    words = {
        k: fields.pop(k)
        for k in ("failure", "lostPeer", "askedToStop", "lines", "logs")
        if k in fields
    }
    end = Terminated(
        exit_code=code,
        reason=fields.pop("why", "Error"),
        message=json.dumps(words),
        finished=at,
    )
    return pod(index, phase="Failed", terminated=end, **fields)


def judge(*pods: Pod, child: Child = CHILD, ran: bool = True) -> Ending:
    found = verdict(pods, child, workers=len(pods), ran=ran, now=NOW, settle=3)
    assert isinstance(found, Ending)
    return found


@pytest.mark.parametrize(
    ("pods", "cause", "who"),
    [
        ([ended(0, 2)], Cause.INVALID_CONFIGURATION, "p0"),
        ([ended(0, 3)], Cause.UNUSABLE_DATA, "p0"),
        ([ended(0, 4)], Cause.DIVERGED, "p0"),
        ([ended(0, 75)], Cause.TRY_AGAIN, "p0"),
        ([ended(0, 1)], Cause.PROGRAM_FAILED, "p0"),
        ([ended(0, 137)], Cause.KILLED, "p0"),
        ([ended(0, 137, why="OOMKilled")], Cause.OUT_OF_MEMORY, "p0"),
        ([ended(0, 143)], Cause.STOPPED, "p0"),
        ([pod(0, phase="Failed", reason="Evicted")], Cause.EVICTED, "p0"),
        # What a pod wrote itself it would write again.
        (
            [
                ended(
                    *(0, 137),
                    reason="Evicted",
                    message='Usage of EmptyDir volume "tmp" exceeds the limit "50Gi". ',
                )
            ],
            Cause.INVALID_CONFIGURATION,
            "p0",
        ),
        ([pod(0, phase="Failed", reason="UnexpectedAdmissionError")], Cause.EVICTED, "p0"),
        ([ended(0, 143, disruption="EvictionByEvictionAPI")], Cause.EVICTED, "p0"),
        ([pod(0, deleting=True, disruption="PreemptionByScheduler")], Cause.PREEMPTED, "p0"),
        ([pod(0), pod(1, deleting=True)], Cause.POD_DELETED, "p1"),
        # The first to fail is the culprit, whatever its number.
        ([ended(0, 1, at=NOW - 50), ended(1, 4, at=NOW - 60)], Cause.DIVERGED, "p1"),
        ([ended(0, 1), ended(1, 4)], Cause.PROGRAM_FAILED, "p0"),
        # A program that lost its peer explains nothing, even when it ended first.
        (
            [ended(0, 1, at=NOW - 90, lostPeer=True), ended(1, 137, why="OOMKilled")],
            Cause.OUT_OF_MEMORY,
            "p1",
        ),
        ([ended(0, 75, lostPeer=True), ended(1, 143)], Cause.STOPPED, "p1"),
        ([ended(0, 1, lostPeer=True), ended(1, 1, lostPeer=True)], Cause.TRY_AGAIN, "p0"),
        # Torn down by the Training Operator after another one failed.
        ([ended(0, 143, at=NOW - 90, deleting=True), ended(1, 1)], Cause.PROGRAM_FAILED, "p1"),
        # One pod was deleted: its peers only lost it.
        (
            [ended(0, 1, lostPeer=True), ended(1, 143, deleting=True)],
            Cause.POD_DELETED,
            "p1",
        ),
        # What came from outside comes before what the program made of it.
        ([ended(0, 1, at=NOW - 90), pod(1, phase="Failed", reason="Evicted")], Cause.EVICTED, "p1"),
    ],
)
def test_the_culprit_is_found(pods: list[Pod], cause: Cause, who: str) -> None:
    ending = judge(*pods)
    assert (ending.cause, ending.pod) == (cause, who)
    assert ending.node == f"n{who[1:]}"
    assert ending.message


def test_the_last_words_are_kept() -> None:
    ending = judge(ended(0, 4, failure="step 7: loss is NaN", lines=["a", "b"], logs="s3://l"))
    assert ending.message == "step 7: loss is NaN"
    assert ending.last_lines == ("a", "b")
    assert ending.logs == "s3://l"
    assert ending.exit_code == 4


def test_other_pods_are_waited_for_until_they_settle() -> None:
    pods = [ended(0, 1, at=NOW - 1), pod(1)]
    assert verdict(pods, CHILD, workers=2, ran=True, now=NOW, settle=3) == NOW + 2
    both = [ended(0, 1, at=NOW - 1), ended(1, 1, at=NOW - 2)]
    assert isinstance(verdict(both, CHILD, workers=2, ran=True, now=NOW, settle=3), Ending)
    # A node whose clock is ahead makes nobody wait.
    ahead = [ended(0, 1, at=NOW + 3600), pod(1)]
    assert isinstance(verdict(ahead, CHILD, workers=2, ran=True, now=NOW, settle=3), Ending)


def test_nothing_is_said_about_pods_that_run() -> None:
    assert verdict([pod(0), pod(1)], CHILD, workers=2, ran=True, now=NOW, settle=3) is None
    assert verdict([pod(0)], CHILD, workers=2, ran=False, now=NOW, settle=3) is None


def test_a_pod_that_ran_and_is_missing_was_deleted() -> None:
    found = verdict([pod(0)], CHILD, workers=2, ran=True, now=NOW, settle=3)
    assert isinstance(found, Ending)
    assert found.cause is Cause.POD_DELETED
    assert "worker 1" in found.message
    again = [pod(0), pod(1, phase="Pending")]
    found = verdict(again, CHILD, workers=2, ran=True, now=NOW, settle=3)
    assert isinstance(found, Ending)
    assert found.cause is Cause.POD_DELETED


def test_a_failed_child_without_a_culprit_is_the_infrastructures_fault() -> None:
    found = verdict([], FAILED, workers=1, ran=False, now=NOW, settle=3)
    assert isinstance(found, Ending)
    assert budget_of(found.cause) is Budget.INFRASTRUCTURE


NODES: dict[str, Node | None] = {
    "vanished": None,
    "well": Node(name="well", ready=True, since=0),
    "away": Node(name="away", ready=False, since=NOW - 10),
}


@pytest.mark.parametrize(
    ("subject", "nodes", "moment"),
    [
        (pod(node="well"), NODES, NEVER),
        (pod(node="away"), NODES, NOW + 20),
        (pod(node="away", phase="Failed"), NODES, NEVER),
        (pod(node="vanished"), NODES, -NEVER),
        (pod(node="not yet known"), NODES, NEVER),
        (pod(node=None, phase="Pending"), NODES, NEVER),
        (pod(node="away"), None, NEVER),
    ],
)
def test_pods_are_lost_with_their_node(
    subject: Pod, nodes: dict[str, Node | None] | None, moment: float
) -> None:
    assert away_from(subject, nodes, 30) == moment


def test_pods_that_outlive_their_deletion_are_lost() -> None:
    assert stuck_from(pod(deleting=True, gone_by=NOW), 30) == NOW + 30
    assert stuck_from(pod(), 30) == NEVER
    assert stuck_from(pod(phase="Failed", deleting=True, gone_by=NOW), 30) == NEVER


def test_who_deletes_a_pod_may_be_known_a_moment_later() -> None:
    going = pod(0, deleting=True, deleted=NOW - 1, gone_by=NOW + 59)
    assert verdict([going], CHILD, workers=1, ran=True, now=NOW, settle=3) == NOW + 2


causes = st.sampled_from(list(Cause))


@given(st.lists(st.tuples(causes, st.booleans()), min_size=1, max_size=12), st.integers(1, 5))
def test_budgets_and_delays_follow_their_definition(
    ends: list[tuple[Cause, bool]], first_counted_attempt: int
) -> None:
    attempts = tuple(
        Attempt(
            number=i,
            cause=cause,
            completion_time="x",
            last_checkpoint_time="x" if committed else None,
        )
        for i, (cause, committed) in enumerate(ends, 1)
    )
    stage = StageStatus(
        name="train", attempts=attempts, first_counted_attempt=first_counted_attempt
    )
    retries, policy = Retries(infrastructure=3, application=1), Failures()
    counted = [a for a in attempts if a.number >= first_counted_attempt and a.cause]
    spent = charged(stage)
    assert sum(spent.values()) == len(counted)
    after = sequel(stage, retries, policy)
    budget = budget_of(ends[-1][0])
    granted = {Budget.INFRASTRUCTURE: 3, Budget.APPLICATION: 1}.get(budget)
    if budget is Budget.FINAL:
        assert after.delay is None
    elif budget is Budget.FREE:
        row = 0  # of attempts that were preempted before they ran
        while row < len(ends) and ends[-1 - row][0] is Cause.PREEMPTED:
            row += 1
        assert after.delay == (0 if row < 2 else min(300, 5 * 2 ** (row - 2)))
    elif granted is not None and spent[budget] > granted:
        assert (after.delay, after.reason) == (None, "BudgetExhausted")
    else:
        charged_for = [a for a in counted if a.cause and budget_of(a.cause) is not Budget.FREE]
        streak = 0
        for attempt in reversed(charged_for):
            streak += 1
            if attempt.last_checkpoint_time:
                break
        assert after.delay == min(300, 5 * 2 ** max(0, streak - 1))


def test_a_pod_that_is_torn_down_after_another_failed_is_not_the_cause() -> None:
    # Worker 0 lost its peer with worker 1's node; then the Training Operator deletes worker 1.
    lost = ended(0, 75, at=NOW - 60, lostPeer=True, failure="Lost the other processes")
    torn = pod(1, deleting=True, deleted=NOW - 60, gone_by=NOW)
    found = judge(lost, torn)
    assert (found.cause, found.pod) == (Cause.TRY_AGAIN, "p0")
    # Somebody deletes worker 1; then worker 0 loses its peer.
    drained = ended(1, 143, at=NOW - 59, deleting=True, deleted=NOW - 62, gone_by=NOW)
    found = judge(lost, drained)
    assert (found.cause, found.pod) == (Cause.POD_DELETED, "p1")
    # A program's own failure counts although its pod is deleted afterwards.
    failed = ended(1, 3, at=NOW - 61, deleting=True, deleted=NOW - 60, gone_by=NOW)
    found = judge(lost, failed)
    assert (found.cause, found.pod) == (Cause.UNUSABLE_DATA, "p1")


def test_a_program_that_died_before_it_was_asked_to_stop_is_the_cause() -> None:
    # Worker 1's trainer is killed; worker 0 loses it and ends first, so the Training Operator
    # deletes worker 1's pod while that still stores its log.
    lost = ended(0, 75, at=NOW - 61, lostPeer=True, failure="Lost the other processes")
    deleted = {"deleting": True, "deleted": NOW - 60, "gone_by": NOW}
    killed = ended(1, 137, at=NOW - 55, askedToStop=False, failure="ended by SIGKILL", **deleted)
    found = judge(lost, killed)
    assert (found.cause, found.pod, found.exit_code) == (Cause.KILLED, "p1", 137)
    # Asked first, it was stopped by whoever deleted it; without a word so it is taken to be.
    for word in ({"askedToStop": True}, {}):
        stopped = ended(1, 137, at=NOW - 55, **word, **deleted)
        assert judge(stopped).cause == Cause.POD_DELETED


@pytest.mark.parametrize(
    ("subject", "strike"),
    [
        (pod(0, phase="Failed", reason="NodeLost"), Strike.NODE_LOST),
        (pod(0, phase="Failed", disruption="DeletionByTaintManager"), Strike.NODE_LOST),
        (
            pod(
                0, phase="Failed", reason="Evicted", message="The node was low on resource: memory"
            ),
            Strike.NODE_PRESSURE,
        ),
        (pod(0, phase="Failed", disruption="EvictionByEvictionAPI"), None),
        (pod(0, phase="Failed", reason="NodeShutdown"), None),
        (pod(0, phase="Failed", reason="UnexpectedAdmissionError"), Strike.DEVICE),
        (ended(0, 1, failure="CUDA error: uncorrectable ECC error encountered"), Strike.DEVICE),
        (ended(0, 1, lines=["NVRM: Xid (PCI:0000:07:00): 79, GPU has fallen off"]), Strike.DEVICE),
        (ended(0, 1, lines=["NVRM: Xid (PCI:0000:07:00): 31, MMU fault"]), None),
        (ended(0, 1, failure="RuntimeError: shapes do not match"), None),
        (ended(0, 137), None),
    ],
)
def test_what_counts_against_a_node(subject: Pod, strike: Strike | None) -> None:
    assert judge(subject).strike is strike
