"""Helm and kustomize as functions from values and folders to documents."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/florence-operator"
OVERLAYS = sorted(path.parent for path in ROOT.glob("manifests/overlays/*/kustomization.yaml"))

HELM, KUBECTL = shutil.which("helm"), shutil.which("kubectl")

Document = dict[str, Any]


def template(
    values: Path | Document | None = None, release: str = "florence-operator"
) -> tuple[list[Document], str]:
    """What ``helm template`` makes of values, and its complaints; no documents with complaints."""
    command = [
        *(HELM or "helm", "template", release, str(CHART), "--namespace", "florence-system"),
        *("--kube-version", "1.34.0"),
    ]
    text = None
    if isinstance(values, Path):
        command += ["--values", str(values)]
    elif values is not None:
        command, text = [*command, "--values", "-"], json.dumps(values)
    run = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)
    if run.returncode:
        return [], run.stderr
    return [document for document in yaml.safe_load_all(run.stdout) if document], ""


def kustomize(folder: Path) -> list[Document]:
    """What ``kubectl kustomize`` makes of a folder."""
    run = subprocess.run(
        [KUBECTL or "kubectl", "kustomize", str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [document for document in yaml.safe_load_all(run.stdout) if document]


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    """The documents of these kinds."""
    return [document for document in documents if document["kind"] in kinds]


def rules(documents: list[Document]) -> dict[str, list[Document]]:
    """The rules of every role, by the role's name."""
    return {
        document["metadata"]["name"]: document["rules"]
        for document in of_kind(documents, "Role", "ClusterRole")
    }


def pod_specs(documents: list[Document]) -> list[tuple[str, Document]]:
    """Every pod that documents make, with a name for messages."""
    found = []
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            found.append((name, document["spec"]))
        elif "template" in document.get("spec", {}):
            found.append((name, document["spec"]["template"]["spec"]))
    return found


def restricted_problems(pod: Document) -> list[str]:
    """What PodSecurity ``restricted`` would hold against a pod, and a root that can be written."""
    found = []
    security = pod.get("securityContext", {})
    if security.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        found.append("seccompProfile")
    if not security.get("runAsNonRoot") or not isinstance(security.get("runAsUser"), int):
        found.append("runAsNonRoot with a numeric user")
    found += [name for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    allowed = {"configMap", "emptyDir", "projected", "secret", "persistentVolumeClaim"}
    found += [v["name"] for v in pod.get("volumes", []) if not allowed & v.keys()]
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        own = container.get("securityContext", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            found.append(f"{container['name']}: privileges")
        if own.get("capabilities") != {"drop": ["ALL"]}:
            found.append(f"{container['name']}: capabilities")
        if own.get("readOnlyRootFilesystem") is not True:
            found.append(f"{container['name']}: writable root")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{container['name']}: hostPort")
    return found
