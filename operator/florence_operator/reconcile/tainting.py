"""Taint the nodes that are avoided, where the operator's settings ask for that."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from florence_operator.kube.client import NODES, Client
from florence_operator.kube.errors import ApiError

TAINT = "florence.dev/strikes"
"""Key of the taint; others' are never touched."""

log = logging.getLogger(__name__)

Document = Mapping[str, Any]


def wanted_taints(node: Document, struck: bool, effect: str) -> list[Document] | None:
    """The taints that a node is to have; None when it has them."""
    known = list((node.get("spec") or {}).get("taints") or ())
    others = [taint for taint in known if taint.get("key") != TAINT]
    ours = [{"key": TAINT, "value": "true", "effect": effect}] if struck else []
    mine = [taint for taint in known if taint.get("key") == TAINT]
    if [(t.get("value"), t.get("effect")) for t in mine] == [(t["value"], effect) for t in ours]:
        return None
    return [*others, *ours]


async def taint(
    client: Client, nodes: Iterable[Document], struck: Iterable[str], effect: str
) -> None:
    """Put the taint on struck nodes and take it from all others; failures are tried again later.

    Args:
        effect: NoSchedule or PreferNoSchedule.
    """
    bad = set(struck)
    for node in nodes:
        metadata = node["metadata"]
        wanted = wanted_taints(node, metadata["name"] in bad, effect)
        if wanted is None:
            continue
        body = {
            "metadata": {"resourceVersion": metadata["resourceVersion"]},
            "spec": {"taints": wanted},
        }
        try:
            await client.patch(NODES, metadata["name"], None, body)
        except ApiError as error:
            if not error.conflict:
                log.warning("node %s cannot be tainted: %s", metadata["name"], error)
