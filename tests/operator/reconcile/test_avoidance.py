"""Nodes with strikes: forbidden while enough others remain, else only unwanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from florence_operator.api.v1alpha1 import FlorenceJob
from florence_operator.observe.nodes import Node
from florence_operator.observe.observation import Observation
from florence_operator.reconcile.avoidance import Avoidance, avoidance
from florence_operator.reconcile.decide import decide
from florence_operator.reconcile.stage_view import View
from tests.operator.simulated_cluster import SETTINGS, job_document

NOW = 1_790_000_000.0
SIZES = {"cpu": "8", "memory": "64Gi"}


def node(name: str, **fields: Any) -> Node:
    return Node(**{"name": name, "ready": True, "since": 0.0, "allocatable": SIZES, **fields})


def seen(*nodes: Node, strikes: dict[str, list[float]], **spec: Any) -> Observation:
    document = job_document()
    document["spec"].update(spec)
    return Observation(
        job=FlorenceJob.model_validate(document),
        now=NOW,
        strikes=strikes,
        pool={each.name: each for each in nodes},
    )


def found(observed: Observation, stage: int = 0) -> Avoidance:
    return avoidance(View(stage=observed.job.spec.stages[stage], seen=observed, settings=SETTINGS))


TWICE = {"bad": [NOW - 60, NOW - 10], "once": [NOW - 10]}


def test_one_strike_is_none_and_old_ones_fade() -> None:
    assert found(seen(node("a"), strikes={"once": [NOW]})) == Avoidance()
    assert found(seen(node("a"), strikes={"bad": [NOW - 9e4, NOW - 9e4]})) == Avoidance()
    assert found(seen(node("a"), strikes=TWICE)).struck == ("bad",)


@pytest.mark.parametrize(
    ("others", "required"),
    [
        ([node("a")], True),  # both workers fit there
        ([], False),
        ([node("a", ready=False)], False),
        ([node("a", schedulable=False)], False),
        ([node("a", allocatable={"cpu": "1", "memory": "64Gi"})], False),
        (
            [node("a", allocatable={"cpu": "1", "memory": "8Gi"}), node("b")],
            True,
        ),
        ([node("a", allocatable={})], False),
        ([node("a", taints=({"key": "dedicated", "effect": "NoSchedule"},))], False),
    ],
)
def test_it_is_required_while_enough_others_fit(others: list[Node], required: bool) -> None:
    assert found(seen(node("bad"), *others, strikes=TWICE)).required is required


def test_others_are_those_of_the_pool_whose_taints_are_tolerated() -> None:
    taint = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}
    gpu = node("a", labels={"gpu": "a100"}, taints=(taint,))
    for pool, required in (
        ({"selector": {"gpu": "a100"}}, False),
        ({"tolerations": [{"key": "dedicated", "operator": "Exists"}]}, True),
        ({"tolerations": [{"key": "dedicated", "value": "gpu"}]}, True),
        ({"tolerations": [{"key": "dedicated", "value": "cpu"}]}, False),
        ({"tolerations": [{"operator": "Exists", "effect": "NoExecute"}]}, False),
        ({"selector": {"gpu": "h100"}, "tolerations": [{"operator": "Exists"}]}, False),
    ):
        assert found(seen(gpu, strikes=TWICE, nodePool=pool)).required is required, pool


def affinity(observed: Observation) -> dict[str, Any]:
    answered = decide(observed, SETTINGS).questions
    decision = decide(replace(observed, answered=answered), SETTINGS)
    start = next(s for s in decision.starts if s.stage == "a")
    (child,) = start.documents
    spec = child["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    attempt = decision.status.stage("a").attempts[-1]
    assert attempt.avoided_nodes == ("bad",)
    nodes: dict[str, Any] = spec["affinity"]["nodeAffinity"]
    return nodes


def test_the_pods_of_the_next_attempt_keep_away() -> None:
    expression = {"key": "metadata.name", "operator": "NotIn", "values": ["bad"]}
    assert affinity(seen(node("bad"), node("a"), strikes=TWICE)) == {
        "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchFields": [expression]}]
        }
    }
    assert affinity(seen(node("bad"), strikes=TWICE)) == {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "preference": {"matchFields": [expression]}}
        ]
    }
