from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from florencectl.cluster.node_fit import node_fits, shortage, tolerates
from tests.cli.cluster_objects import node, pod

TAINT = {"key": "gpu", "value": "a100", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("toleration", "expected"),
    [
        ({"key": "gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"}, True),
        ({"key": "gpu", "value": "a100"}, True),
        ({"key": "gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "gpu", "value": "h100"}, False),
        ({"key": "gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"key": "other", "operator": "Exists"}, False),
        ({}, False),
    ],
)
def test_tolerations_match_as_the_scheduler_does(toleration: Any, expected: bool) -> None:
    assert tolerates([toleration], TAINT) is expected


def test_gpus_of_pods_that_have_ended_are_free() -> None:
    pods = [pod(0, phase=phase) for phase in ("Succeeded", "Failed")]
    for each in pods:
        each["spec"]["nodeName"] = "node0"
    assert node_fits([node("node0")], pods, {}, [])[0].free == 8
    assert node_fits([node("node0")], [*pods, pod(0)], {}, [])[0].free == 0


def test_room_is_counted_in_whole_pods() -> None:
    """Against a plain count: a pod's GPUs come from one node."""
    for first, second, gpus, workers in product(range(0, 9, 2), range(0, 9, 4), (2, 3, 8), (1, 2)):
        found = node_fits([node("a", first), node("b", second)], [], {}, [])
        fit = 0
        for free in (first, second):
            while free >= gpus:
                free, fit = free - gpus, fit + 1
        text = shortage(found, workers, gpus, {})
        assert ("the pool fits" in text) is (fit >= workers)
        if fit < workers:
            assert f"has room for {fit} pod" in text


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([], "has no nodes"),
        ([node("n")], "No node has the labels of spec.nodePool.selector (pool=a100)"),
        ([node("n", labels={"pool": "a100"}, unschedulable=True)], "n is cordoned"),
        ([node("n", labels={"pool": "a100"}, taints=[TAINT])], "n has the taint gpu=a100:NoSch"),
    ],
)
def test_what_keeps_pods_from_nodes_is_named(nodes: Any, words: str) -> None:
    selector = {"pool": "a100"}
    assert words in shortage(node_fits(nodes, None, selector, []), 1, 8, selector)
