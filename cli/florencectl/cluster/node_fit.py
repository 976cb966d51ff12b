"""Which nodes could take a stage's pods, and what keeps the others from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GPU = "nvidia.com/gpu"

Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFit:
    """One node, as a job's pods see it."""

    name: str
    ready: bool
    schedulable: bool
    matches: bool
    """Whether it has the labels of the job's node pool."""
    taints: tuple[str, ...]
    """Taints that the job's pods do not tolerate."""
    gpus: int
    free: int

    @property
    def usable(self) -> bool:
        """Whether the pods may run there at all, were there enough GPUs."""
        return self.ready and self.schedulable and self.matches and not self.taints


def node_fits(
    nodes: Sequence[Document],
    pods: Sequence[Document] | None,
    selector: Mapping[str, str],
    tolerations: Sequence[Document],
) -> list[NodeFit]:
    """Every node with its GPUs; without ``pods`` all of them count as free."""
    used: dict[str, int] = {}
    for pod in pods or ():
        spec = pod.get("spec") or {}
        phase = (pod.get("status") or {}).get("phase")
        if spec.get("nodeName") and phase not in ("Succeeded", "Failed"):
            used[spec["nodeName"]] = used.get(spec["nodeName"], 0) + gpus_of(spec)
    return [_room(node, used, selector, tolerations) for node in nodes]


def gpus_of(spec: Document) -> int:
    """The GPUs that a pod asks for."""
    total = 0
    for container in spec.get("containers") or ():
        resources = container.get("resources") or {}
        wanted = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        total += whole(wanted.get(GPU))
    return total


def whole(count: Any) -> int:
    """A count of GPUs as the API server writes it; 0 for what is none."""
    text = str(count or 0)
    return int(text) if text.isdecimal() else 0


def tolerates(tolerations: Sequence[Document], taint: Document) -> bool:
    """Whether one of the tolerations lets pods run on a node with the taint."""
    for toleration in tolerations:
        key, effect = toleration.get("key"), toleration.get("effect")
        exists = toleration.get("operator") == "Exists"
        if effect and effect != taint.get("effect"):
            continue
        if not key and exists:
            return True
        same = (toleration.get("value") or "") == (taint.get("value") or "")
        if key == taint.get("key") and (exists or same):
            return True
    return False


def shortage(found: Sequence[NodeFit], workers: int, gpus: int, selector: Mapping[str, str]) -> str:
    """Why ``workers`` pods of ``gpus`` GPUs each do not fit, or that they do; one sentence."""
    if not found:
        return "The cluster has no nodes."
    wanted = ", ".join(f"{key}={value}" for key, value in selector.items())
    matching = [room for room in found if room.matches]
    if not matching:
        return f"No node has the labels of spec.nodePool.selector ({wanted})."
    usable = [room for room in matching if room.usable]
    refused = "; ".join(_why_not(room) for room in matching if not room.usable)
    if not usable:
        return f"None of the {_count(len(matching), 'node')} of the pool takes pods: {refused}."
    if not gpus:
        return f"{_count(len(usable), 'node')} of the pool may take pods."
    fit = sum(room.free // gpus for room in usable)
    free = ", ".join(f"{room.name} {room.free} of {room.gpus}" for room in usable[:8])
    more = f" and {len(usable) - 8} more nodes" if len(usable) > 8 else ""
    also = f" Not counted: {refused}." if refused else ""
    verdict = "fits" if fit >= workers else f"has room for {_count(fit, 'pod')}"
    return (
        f"It asks for {_count(workers, 'pod')} of {_count(gpus, 'GPU')}; the pool {verdict} "
        f"(free GPUs: {free}{more}).{also}"
    )


def _room(
    node: Document,
    used: Mapping[str, int],
    selector: Mapping[str, str],
    tolerations: Sequence[Document],
) -> NodeFit:
    name = node["metadata"]["name"]
    labels = node["metadata"].get("labels") or {}
    spec, status = node.get("spec") or {}, node.get("status") or {}
    gpus = whole((status.get("allocatable") or {}).get(GPU))
    taints = [
        taint
        for taint in spec.get("taints") or ()
        if taint.get("effect") != "PreferNoSchedule"
        and not str(taint.get("key", "")).startswith("node.kubernetes.io/")
    ]
    return NodeFit(
        name=name,
        ready=any(
            c.get("type") == "Ready" and c.get("status") == "True"
            for c in status.get("conditions") or ()
        ),
        schedulable=not spec.get("unschedulable"),
        matches=all(labels.get(key) == value for key, value in selector.items()),
        taints=tuple(_written(taint) for taint in taints if not tolerates(tolerations, taint)),
        gpus=gpus,
        free=max(0, gpus - used.get(name, 0)),
    )


def _written(taint: Document) -> str:
    value = f"={taint['value']}" if taint.get("value") else ""
    return f"{taint.get('key')}{value}:{taint.get('effect')}"


def _why_not(room: NodeFit) -> str:
    if not room.ready:
        return f"{room.name} is not ready"
    if not room.schedulable:
        return f"{room.name} is cordoned"
    return f"{room.name} has the taint {', '.join(room.taints)}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
