"""What ``doctor`` makes of what it finds: pure judgements, each with a remedy."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from florence_operator.api.child_kinds import PYTORCH_JOB, TRAIN_JOB
from florencectl.cluster.node_fit import NodeFit, shortage
from florencectl.levels import Level
from florencectl.output import plural

Document = Mapping[str, Any]

OLDEST_MINOR = 29
FRAMEWORKS = {
    PYTORCH_JOB.name: "kubeflow.org/pytorchjob",
    TRAIN_JOB.name: "trainer.kubeflow.org/trainjob",
}
"""Kueue's names of what it takes, by kind."""
_INSTALL = "install it as docs/install.md says"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding."""

    name: str
    level: Level
    message: str
    remedy: str = ""


def api_server(version: Document, server: str) -> Check:
    """Whether the API server is new enough."""
    told = version.get("gitVersion", "?")
    minor = re.match(r"\d+", str(version.get("minor", "")))
    if str(version.get("major")) == "1" and minor and int(minor[0]) < OLDEST_MINOR:
        return Check(
            "API server",
            Level.FAIL,
            f"{told} at {server}",
            f"FlorenceJobs need Kubernetes 1.{OLDEST_MINOR} or newer",
        )
    return Check("API server", Level.OK, f"{told} at {server}")


def custom_resource(crd: Document | None, own: Document) -> Check:
    """Whether the FlorenceJob CRD is there, established, and of this program's version."""
    name = "FlorenceJob CRD"
    if crd is None:
        return Check(name, Level.FAIL, "not installed", f"{_INSTALL}: the operator brings its CRD")
    conditions = (crd.get("status") or {}).get("conditions") or ()
    if not any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions):
        return Check(name, Level.FAIL, "not established yet", "wait a minute; else apply it again")
    theirs, ours = schema_digest(crd), schema_digest(own)
    if theirs != ours:
        return Check(
            name,
            Level.WARN,
            f"schema {theirs}, this program's is {ours}",
            "install operator, CRD and florencectl of the same version (Helm never upgrades "
            "CRDs by itself)",
        )
    return Check(name, Level.OK, f"v1alpha1, schema {ours}")


def schema_digest(crd: Document) -> str:
    """A short digest of the schema of a CRD's newest version, however it is written down."""
    versions = (crd.get("spec") or {}).get("versions") or [{}]
    text = json.dumps(_plain(versions[-1].get("schema")), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _plain(value: Any) -> Any:
    """A value as JSON compares it: 1.0 and 1 are the same number."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def operator(deployments: Sequence[Document] | None) -> Check:
    """Whether the operator's Deployment has a replica that is available."""
    name = "operator"
    if deployments is None:
        return unseen(name, "Deployments")
    found = [d for d in deployments if "florence-operator" in d["metadata"]["name"]]
    if not found:
        return Check(name, Level.FAIL, "no Deployment florence-operator", _INSTALL)
    return available(name, found[0])


def leader(lease: Document | None, now: float, renewed: float | None) -> Check:
    """Whether a replica of the operator leads."""
    name = "operator's leader"
    holder = ((lease or {}).get("spec") or {}).get("holderIdentity")
    if not holder or renewed is None:
        return Check(name, Level.WARN, "no replica leads", "see the log of the operator's pods")
    limit = 4 * float(((lease or {}).get("spec") or {}).get("leaseDurationSeconds") or 15)
    if now - renewed > limit:
        return Check(
            name,
            Level.FAIL,
            f"{holder} has not renewed its lease for {now - renewed:.0f} s",
            "see the log of the operator's pods, and the clocks of the nodes",
        )
    return Check(name, Level.OK, holder)


def kueue(
    configuration: str | None,
    queue: str | None,
    queues: Sequence[str],
    *,
    installed: bool = True,
    kinds: Sequence[str] = (PYTORCH_JOB.name,),
) -> Check:
    """Whether Kueue is there, takes one of these kinds, and has the queue that a job names."""
    name = "Kueue"
    level = Level.FAIL if queue else Level.WARN
    if not installed:
        if queue:
            return Check(
                name, level, "not installed", f"install Kueue, or unset runPolicy.queue={queue}"
            )
        return Check(name, Level.OK, "not installed: jobs start without a queue")
    enabled = frameworks(configuration) if configuration is not None else ()
    taken = [kind for kind in kinds if FRAMEWORKS[kind] in enabled]
    if configuration is not None and not taken:
        wanted = " or ".join(FRAMEWORKS[kind] for kind in kinds)
        return Check(
            name,
            level,
            f"its integration of {wanted} is off: queues do not hold jobs back",
            f"add {wanted} to integrations.frameworks in the ConfigMap kueue-manager-config and "
            "restart Kueue",
        )
    if queue and queue not in queues:
        there = ", ".join(queues) or "none"
        return Check(
            name,
            Level.FAIL,
            f"no LocalQueue '{queue}' in the namespace; there: {there}",
            "make the LocalQueue, or set runPolicy.queue to one that exists",
        )
    if configuration is None:
        return Check(name, Level.WARN, "installed; its settings may not be read by you")
    known = f"; queues: {', '.join(queues)}" if queues else ""
    return Check(name, Level.OK, f"takes {' and '.join(f'{kind}s' for kind in taken)}{known}")


def frameworks(configuration: str) -> list[str]:
    """The integrations that a Kueue configuration enables."""
    try:
        document = yaml.safe_load(configuration)
    except yaml.YAMLError:
        return []
    integrations = document.get("integrations") if isinstance(document, dict) else None
    found = (integrations or {}).get("frameworks") if isinstance(integrations, dict) else None
    return [str(framework) for framework in found or ()]


def node_pool(
    found: Sequence[NodeFit] | None,
    selector: Mapping[str, str],
    stages: Sequence[tuple[str, int, int]],
) -> list[Check]:
    """Whether there are nodes, and whether each stage (name, pods, GPUs of each) could ever fit."""
    name = "nodes"
    if found is None:
        return [unseen(name, "Nodes")]
    usable = [room for room in found if room.usable]
    gpus, free = sum(room.gpus for room in usable), sum(room.free for room in usable)
    if not usable:
        return [
            Check(
                name,
                Level.FAIL,
                shortage(found, 1, 0, selector).rstrip("."),
                "correct spec.nodePool, or label, repair or uncordon nodes",
            )
        ]
    of = f" of {len(found)}" if len(usable) < len(found) else ""
    told = f"{len(usable)}{of} usable, {plural(gpus, 'GPU')}, {free} free"
    checks = [Check(name, Level.OK, told)]
    for stage, workers, each in stages:
        fit = sum(room.gpus // each for room in usable) if each else workers
        if fit < workers:
            checks.append(
                Check(
                    f"nodes for '{stage}'",
                    Level.FAIL,
                    f"it asks for {plural(workers, 'pod')} of {plural(each, 'GPU')}; "
                    f"even empty the pool has room for {fit}",
                    "ask for fewer or smaller pods, or for a larger pool",
                )
            )
    return checks


def rights(missing: Sequence[str], optional: Sequence[str]) -> Check:
    """Whether the user may do what this program does."""
    name = "your rights"
    ask = "ask whoever runs the cluster to bind the role of FlorenceJob editors to you"
    if missing:
        return Check(name, Level.FAIL, f"you may not {', '.join(missing)}", ask)
    if optional:
        return Check(name, Level.WARN, f"you may not {', '.join(optional)}", ask)
    return Check(name, Level.OK, "everything that this program does")


def namespace(document: Document | None, name: str) -> Check:
    """Whether the namespace exists, and which pods it takes."""
    title = "namespace"
    if document is None:
        return Check(title, Level.FAIL, f"'{name}' does not exist", f"kubectl create ns {name}")
    labels = document["metadata"].get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce")
    told = f"PodSecurity {level}" if level else "no PodSecurity level is enforced"
    return Check(title, Level.OK, f"'{name}': {told}; jobs' pods fit 'restricted'")


def secret(document: Document | None, name: str, needed: Sequence[str]) -> Check:
    """Whether a Secret is there with the keys that the pods need."""
    title = f"Secret '{name}'"
    if document is None:
        keys = " ".join(f"--from-literal={key}=…" for key in needed)
        return Check(
            title, Level.FAIL, "does not exist", f"kubectl create secret generic {name} {keys}"
        )
    missing = [key for key in needed if key not in (document.get("data") or {})]
    if missing:
        return Check(title, Level.FAIL, f"lacks {', '.join(missing)}", "add these keys")
    return Check(title, Level.OK, f"has {', '.join(needed)}" if needed else "exists")


def available(name: str, deployment: Document) -> Check:
    """Whether a Deployment has a replica that is available."""
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    available, wanted = status.get("availableReplicas") or 0, status.get("replicas") or 0
    where = f"{metadata['namespace']}/{metadata['name']}"
    images = ", ".join(
        container.get("image", "?")
        for container in deployment["spec"]["template"]["spec"].get("containers", ())
    )
    if not available:
        return Check(
            name,
            Level.FAIL,
            f"{where}: no replica is available",
            f"kubectl -n {metadata['namespace']} describe deployment {metadata['name']}",
        )
    return Check(name, Level.OK, f"{where}: {available} of {wanted} available ({images})")


def unseen(name: str, what: str) -> Check:
    """What to say of objects that the user may not read."""
    return Check(name, Level.WARN, f"{what} may not be read by you", "ask the platform's engineer")
