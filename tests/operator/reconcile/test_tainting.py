"""Our taint comes and goes, and nobody else's is touched."""

from __future__ import annotations

import asyncio
from typing import Any

from florence_operator.kube.client import NODES
from florence_operator.reconcile.tainting import TAINT, taint, wanted_taints
from tests.operator.fake_apiserver import FakeApiServer

OTHER = {"key": "dedicated", "value": "gpu", "effect": "NoSchedule"}


def node(name: str, *taints: dict[str, str]) -> dict[str, Any]:
    spec = {"taints": list(taints)} if taints else {}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}


def test_taints_follow_the_strikes() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client() as client:
            for name in ("bad", "good"):
                server.put(node(name, OTHER))

            async def round_of(struck: list[str], effect: str = "NoSchedule") -> dict[str, Any]:
                await taint(client, server.all(NODES), struck, effect)
                found = server.all(NODES)
                return {d["metadata"]["name"]: d["spec"].get("taints") for d in found}

            ours = {"key": TAINT, "value": "true", "effect": "NoSchedule"}
            assert await round_of(["bad", "gone"]) == {"bad": [OTHER, ours], "good": [OTHER]}
            count = len(server.requests)
            assert await round_of(["bad"]) == {"bad": [OTHER, ours], "good": [OTHER]}
            assert len(server.requests) == count
            soft = {**ours, "effect": "PreferNoSchedule"}
            assert (await round_of(["bad"], "PreferNoSchedule"))["bad"] == [OTHER, soft]
            assert await round_of([]) == {"bad": [OTHER], "good": [OTHER]}

    asyncio.run(main())


def test_a_refusal_and_a_newer_node_end_nothing() -> None:
    async def main() -> None:
        async with FakeApiServer() as server, server.client(tries=1) as client:
            stale = server.put(node("a"))
            server.put({**node("a"), "spec": {"taints": [OTHER]}})
            server.put(node("b"))
            server.fail(403, path="nodes/b", method="PATCH")
            await taint(client, [stale, server.get(NODES, "", "b") or {}], ["a", "b"], "NoSchedule")
            assert (server.get(NODES, "", "a") or {})["spec"]["taints"] == [OTHER]

    asyncio.run(main())


def test_a_node_without_taints_needs_none_taken_away() -> None:
    assert wanted_taints(node("a"), struck=False, effect="NoSchedule") is None
