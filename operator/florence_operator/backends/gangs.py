"""What a gang scheduler and the wish for a topology ask of the pods, whoever makes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from florence_operator.api.run_policy import Gang, Topology

SCHEDULERS = {Gang.VOLCANO: "volcano", Gang.SCHEDULER_PLUGINS: "scheduler-plugins-scheduler"}
"""Which scheduler places the pods; with every other gang it is the cluster's own."""

Document = dict[str, Any]


def placed(template: Mapping[str, Any], gang: Gang, topology: Topology | None) -> Document:
    """A pod template with its scheduler, and with what Kueue reads of the topology."""
    made = dict(template)
    if gang in SCHEDULERS:
        made["spec"] = {**template["spec"], "schedulerName": SCHEDULERS[gang]}
    if gang is Gang.KUEUE and topology is not None:
        word = "required" if topology.required else "preferred"
        asked = {f"kueue.x-k8s.io/podset-{word}-topology": topology.level}
        metadata = template["metadata"]
        made["metadata"] = {**metadata, "annotations": {**metadata["annotations"], **asked}}
    return made


def network_topology(topology: Topology | None) -> Document | None:
    """The topology as Volcano writes it."""
    if topology is None:
        return None
    return {
        "mode": "hard" if topology.required else "soft",
        "highestTierAllowed": int(topology.level),
    }
