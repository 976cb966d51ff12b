"""Strikes kept up change by change are those that all statuses say."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from florence_operator.observe.nodes import NodeRecords
from florence_operator.observe.strikes import Strikes, strikes_in

DAY = 86_400.0
ATTEMPTS = st.fixed_dictionaries(
    {
        "number": st.integers(1, 5),
        "cause": st.sampled_from(["NodeLost", "Evicted", "Diverged", "OfTheNextVersion"]),
    },
    optional={
        "node": st.sampled_from(["n1", "n2", "n3"]),
        "strike": st.sampled_from(["Device", "NodeLost"]),
        "completionTime": st.sampled_from(["2026-11-23T10:00:00Z", "2026-11-23T11:00:00Z", "?"]),
    },
)
CHANGES = st.lists(st.tuples(st.integers(0, 4), st.none() | st.lists(ATTEMPTS, max_size=3)))


def job(number: int, attempts: list[dict[str, Any]]) -> dict[str, Any]:
    metadata = {"namespace": "ns", "name": f"j{number}"}
    return {"metadata": metadata, "status": {"stages": [{"name": "s", "attempts": attempts}]}}


@given(CHANGES)
def test_what_is_kept_up_is_what_the_statuses_say(
    changes: list[tuple[int, list[dict[str, Any]] | None]],
) -> None:
    strikes, jobs = Strikes(DAY), dict[int, dict[str, Any]]()
    for number, attempts in changes:
        old = jobs.pop(number, None)
        if attempts is None:
            if old is not None:
                strikes.take(old, None)
            continue
        jobs[number] = job(number, attempts)
        strikes.take(old, jobs[number])
    expected: dict[str, list[float]] = {}
    for document in jobs.values():
        for node, moment in strikes_in(document):
            expected.setdefault(node, []).append(moment)
    assert {n: sorted(m) for n, m in strikes.by_node.items()} == {
        node: sorted(moments) for node, moments in expected.items()
    }


def test_what_somebody_was_given_does_not_change() -> None:
    strikes = Strikes(DAY)
    lost = {
        "number": 1,
        "cause": "NodeLost",
        "node": "n1",
        "completionTime": "2026-11-23T10:00:00Z",
    }
    strikes.take(None, job(1, [lost]))
    given_then = strikes.by_node
    strikes.take(None, job(2, [lost, lost]))
    assert len(given_then["n1"]) == 1
    assert len(strikes.by_node["n1"]) == 3
    (when,) = given_then["n1"]
    assert strikes.weights(when) == {"n1": 3.0}
    assert strikes.weights(when + 30 * DAY) == {}
    strikes.take(job(2, []), None)
    strikes.take(job(1, []), job(1, []))
    assert strikes.by_node == {}


def test_nodes_are_known_until_they_are_gone() -> None:
    nodes = NodeRecords()
    document = {
        "metadata": {"name": "n1", "labels": {"gpu": "a100"}},
        "spec": {
            "unschedulable": True,
            "taints": [
                {"key": "dedicated", "effect": "NoSchedule"},
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
                {"key": "soft", "effect": "PreferNoSchedule"},
            ],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    nodes.take(None, document)
    (node,) = nodes.by_name.values()
    assert (node.ready, node.schedulable) == (True, False)
    assert [taint["key"] for taint in node.taints] == ["dedicated"]
    nodes.take(document, None)
    assert nodes.by_name == {}
