"""Which nodes an attempt's pods keep away from, and whether they must or only had better."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from florence_operator.api.blame import BAD, weight
from florence_operator.api.duration import seconds
from florence_operator.build.pod_template import requests
from florence_operator.kube.quantities import quantity
from florence_operator.observe.nodes import Node
from florence_operator.reconcile.stage_view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Avoidance:
    """Nodes that are no good for an attempt."""

    struck: tuple[str, ...] = ()
    """Those whose strikes weigh too much."""
    required: bool = False
    """Whether enough others remain to do without them."""

    @property
    def forbidden(self) -> tuple[str, ...]:
        """Where its pods must not run."""
        return self.struck if self.required else ()

    def unwanted(self, others: Iterable[str]) -> list[str]:
        """Where its pods had better not run, these others among them."""
        wished = () if self.required else self.struck
        return sorted({*wished, *others} - set(self.forbidden))


def avoidance(view: View) -> Avoidance:
    """What the strikes of all jobs mean for the next attempt of a stage."""
    half_life = seconds(view.settings.failures.strike_half_life)
    struck = tuple(
        sorted(
            node
            for node, moments in view.seen.strikes.items()
            if len(moments) > 1 and weight(moments, view.now, half_life) > BAD
        )
    )
    if not struck:
        return Avoidance()
    others = (node for name, node in view.seen.pool.items() if name not in struck)
    wanted = {name: quantity(value) for name, value in requests(view.stage, view.settings).items()}
    room = sum(_room(node, wanted) for node in others if _takes(view, node))
    return Avoidance(struck=struck, required=room >= view.stage.resources.workers)


def _takes(view: View, node: Node) -> bool:
    """Whether a node takes pods of the job's pool at all."""
    pool = view.job.spec.node_pool
    tolerations = [toleration.wire() for toleration in pool.tolerations]
    return (
        node.ready
        and node.schedulable
        and all(node.labels.get(key) == value for key, value in pool.selector.items())
        and all(any(_tolerates(t, taint) for t in tolerations) for taint in node.taints)
    )


def _tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    exists = toleration.get("operator") == "Exists"
    if not toleration.get("key"):
        return exists
    same = (toleration.get("value") or "") == (taint.get("value") or "")
    return toleration["key"] == taint.get("key") and (exists or same)


def _room(node: Node, wanted: Mapping[str, float]) -> int:
    """How many such pods fit on a node that has no others: those of other jobs come and go."""
    fit = math.inf
    for name, amount in wanted.items():
        if amount > 0:
            try:
                has = quantity(node.allocatable.get(name, 0))
            except ValueError:
                return 0
            fit = min(fit, has // amount)
    return 0 if math.isinf(fit) else int(fit)
