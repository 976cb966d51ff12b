"""The caches that the operator reads from, and which job a change in them is about."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from florence_operator.api.attempt_pods import Pod, owner, pod_from
from florence_operator.api.labels import JOB_LABEL, UID_LABEL
from florence_operator.backends.protocol import Child
from florence_operator.backends.registry import child_from, made
from florence_operator.observe.children import Children
from florence_operator.observe.nodes import Node, node_from
from florence_operator.observe.queue import QueuePlace, queue_place_from
from florence_operator.runtime.informer import Informer
from florence_operator.runtime.store import Key

BY_JOB = "job"
BY_NODE = "node"
BY_OWNER = "owner"
BY_QUEUE = "queue"

_SIZES = ("cpu", "memory", "nvidia.com/gpu")

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Caches:
    """The informers; nodes and Workloads only where they may be read."""

    jobs: Informer
    children: Children
    pods: Informer
    nodes: Informer | None = None
    workloads: Informer | None = None

    def all(self) -> list[Informer]:
        """Every informer there is."""
        known = (self.jobs, *self.children.informers, self.pods, self.nodes, self.workloads)
        return [informer for informer in known if informer is not None]

    def children_of(self, key: Key, uid: str) -> dict[str, Child]:
        """The children that belong to the very job with that uid."""
        owned = [d for d in self.children.by_index(BY_JOB, _path(key)) if owner(d) == uid]
        return {child.name: child for d in owned if (child := child_from(d)) is not None}

    def left_of(self, key: Key, uid: str) -> bool:
        """Whether anything is left of the job's attempts."""
        return bool(self.children_of(key, uid) or self.pods_of(key, uid))

    def pods_of(self, key: Key, uid: str) -> list[Pod]:
        """The pods of the attempts of the very job with that uid.

        Whether their word counts is another question: labels can be copied, and those of a child
        that is gone may have lost their owner, and still hold their GPUs.
        """
        documents = self.pods.by_index(BY_JOB, _path(key))
        ours = [d for d in documents if d["metadata"]["labels"].get(UID_LABEL) == uid]
        return [pod for document in ours if (pod := pod_from(document)) is not None]

    def nodes_of(self, pods: list[Pod]) -> dict[str, Node] | None:
        """The nodes of these pods; None where nodes may not be read."""
        if self.nodes is None:
            return None
        names = {pod.node for pod in pods if pod.node}
        found = {name: self.nodes.get(None, name) for name in names}
        return {name: node_from(document) for name, document in found.items() if document}

    def queue_of(self, children: Mapping[str, Child]) -> dict[str, QueuePlace]:
        """What Kueue says about these children."""
        places = {}
        for child in children.values():
            for document in self.workloads.by_index(BY_OWNER, child.uid) if self.workloads else ():
                places[child.name] = queue_place_from(document, self._position(document))
        return places

    def _position(self, workload: Document) -> int | None:
        """How many wait before it in its LocalQueue: by priority, then by age, as Kueue does."""
        waiting = queue_key(workload)
        if not waiting or self.workloads is None:
            return None
        mine = _turn(workload)
        return sum(_turn(other) < mine for other in self.workloads.by_index(BY_QUEUE, waiting[0]))

    def foreign(self, document: Mapping[str, Any], uid: str) -> str | None:
        """Why an object cannot be made now: its name is taken. None when it is free, or ours."""
        metadata = document["metadata"]
        known = self.children.get(document["kind"], metadata["namespace"], metadata["name"])
        if known is None or (owner(known) == uid and "deletionTimestamp" not in known["metadata"]):
            return None
        return f"another {document['kind']} {metadata['name']} has to be gone first"

    def observe(self, key: Key, uid: str) -> dict[str, Any]:
        """The fields of an observation that the caches fill."""
        children = self.children_of(key, uid)
        pods = self.pods_of(key, uid)
        return {
            "children": children,
            "pods": pods,
            "nodes": self.nodes_of(pods),
            "queue": self.queue_of(children),
            "installed": self.children.installed,
        }


def made_for_its_attempt(pod: Pod, children: Mapping[str, Child]) -> bool:
    """Whether a child of a pod's attempt brought it about: labels alone can be copied."""
    attempt = pod.stage, pod.attempt
    return any(made(c, pod) for c in children.values() if (c.stage, c.attempt) == attempt)


def by_job(document: Document) -> list[str]:
    """Index: the job that an object's label names."""
    metadata = document["metadata"]
    job = (metadata.get("labels") or {}).get(JOB_LABEL)
    return [_path(Key(metadata.get("namespace", ""), job))] if job else []


def by_node(document: Document) -> list[str]:
    """Index: the node that a pod is on."""
    node = (document.get("spec") or {}).get("nodeName")
    return [node] if node else []


def by_owner(document: Document) -> list[str]:
    """Index: the uid of the controller of an object."""
    return [uid] if (uid := owner(document)) else []


def queue_key(document: Document) -> list[str]:
    """Index: the LocalQueue in which a Workload waits; nothing when it waits no more."""
    conditions = (document.get("status") or {}).get("conditions") or ()
    over = {"QuotaReserved", "Finished"}
    if any(c["type"] in over and c["status"] == "True" for c in conditions):
        return []
    queue = (document.get("spec") or {}).get("queueName")
    return [f"{document['metadata'].get('namespace', '')}/{queue}"] if queue else []


def _turn(workload: Document) -> tuple[int, str, str]:
    metadata = workload["metadata"]
    priority = (workload.get("spec") or {}).get("priority") or 0
    return -priority, metadata.get("creationTimestamp", ""), metadata["name"]


def _path(key: Key) -> str:
    return f"{key.namespace}/{key.name}"


def job_of(document: Mapping[str, Any]) -> Key | None:
    """The job that an object's label names."""
    metadata = document["metadata"]
    job = (metadata.get("labels") or {}).get(JOB_LABEL)
    return Key(metadata.get("namespace", ""), job) if job else None


def slim_pod(document: Document) -> Document:
    """A pod without most of its spec and its annotations, the plan among them."""
    node = (document.get("spec") or {}).get("nodeName")
    metadata = {key: value for key, value in document["metadata"].items() if key != "annotations"}
    return {**document, "metadata": metadata, "spec": {"nodeName": node} if node else {}}


def slim_node(document: Document) -> Document:
    """A node without its images and addresses: whether it is ready, and what fits there."""
    metadata, status = document["metadata"], document.get("status") or {}
    spec, sizes = document.get("spec") or {}, status.get("allocatable") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "creationTimestamp")
    ready = [c for c in status.get("conditions") or () if c["type"] == "Ready"]
    return {
        **document,
        "metadata": {key: metadata[key] for key in kept if key in metadata},
        "spec": {key: spec[key] for key in ("taints", "unschedulable") if key in spec},
        "status": {
            "conditions": ready,
            "allocatable": {key: sizes[key] for key in _SIZES if key in sizes},
        },
    }


def follow_changes(caches: Caches, enqueue: Callable[[Key], None]) -> None:
    """Enqueue the job that each change is about."""

    def job_changed(old: Document | None, new: Document | None) -> None:
        metadata = (new or old or {})["metadata"]
        enqueue(Key(metadata["namespace"], metadata["name"]))

    def labelled_changed(old: Document | None, new: Document | None) -> None:
        if (key := job_of(new or old or {})) is not None:
            enqueue(key)

    def workload_changed(old: Document | None, new: Document | None) -> None:
        metadata = (new or old or {})["metadata"]
        for reference in metadata.get("ownerReferences") or ():
            kind, name = reference.get("kind", ""), reference["name"]
            child = caches.children.get(kind, metadata["namespace"], name)
            if child is not None and (key := job_of(child)) is not None:
                enqueue(key)

    def node_changed(old: Document | None, new: Document | None) -> None:
        if old is not None and new is not None and node_from(old) == node_from(new):
            return
        for pod in caches.pods.by_index(BY_NODE, (new or old or {})["metadata"]["name"]):
            labelled_changed(None, pod)

    caches.jobs.add_handler(job_changed)
    caches.children.add_handler(labelled_changed)
    caches.pods.add_handler(labelled_changed)
    if caches.workloads is not None:
        caches.workloads.add_handler(workload_changed)
    if caches.nodes is not None:
        caches.nodes.add_handler(node_changed)
