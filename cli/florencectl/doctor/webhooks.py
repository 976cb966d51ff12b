"""Whose webhooks have to answer before a pod of the operator can be made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from florence_operator.kube.label_selectors import selects
from florencectl.doctor.checks import Check
from florencectl.levels import Level

Document = Mapping[str, Any]

_NAME = "webhooks of others"


def operator_pods(
    configurations: Sequence[Document], namespace: Document, deployment: Document
) -> list[Check]:
    """A warning for each server without which the operator's pods cannot come back.

    Args:
        configurations: webhook configurations of both kinds, those that the user may read.
        namespace: the operator's.
        deployment: the operator's.
    """
    home = namespace["metadata"]
    labels = {"kubernetes.io/metadata.name": home["name"], **(home.get("labels") or {})}
    template = (deployment["spec"]["template"].get("metadata") or {}).get("labels") or {}
    servers: dict[str, list[str]] = {}
    for configuration in configurations:
        for webhook in configuration.get("webhooks") or ():
            if _holds_up(webhook, labels, template):
                servers.setdefault(_server(webhook), []).append(webhook["name"])
    return [
        Check(
            _NAME,
            Level.WARN,
            f"while {server} is away no pod of the operator can be made ({', '.join(names)})",
            f"leave {home['name']} out of the namespaceSelector, as kube-system is",
        )
        for server, names in servers.items()
    ]


def _holds_up(webhook: Document, namespace: Mapping[str, str], template: Mapping[str, str]) -> bool:
    """Whether it is asked about every new pod of the operator, and its silence refuses it."""
    return (
        webhook.get("failurePolicy", "Fail") == "Fail"
        and not webhook.get("matchConditions")
        and any(map(_is_of_pods, webhook.get("rules") or ()))
        and selects(webhook.get("namespaceSelector"), namespace)
        and selects(webhook.get("objectSelector"), template)
    )


def _is_of_pods(rule: Document) -> bool:
    def has(field: str, *wanted: str) -> bool:
        given: Iterable[str] = rule.get(field) or ()
        return any(value in wanted for value in given)

    return (
        has("operations", "CREATE", "*")
        and has("apiGroups", "", "*")
        and has("resources", "pods", "*", "*/*")
    )


def _server(webhook: Document) -> str:
    client = webhook.get("clientConfig") or {}
    service = client.get("service")
    if service:
        return f"{service['namespace']}/{service['name']}"
    return str(client.get("url", webhook["name"]))
