"""What doctor says of webhooks that the operator's pods depend on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from florencectl.doctor.webhooks import operator_pods
from florencectl.levels import Level
from tests.cli.cluster_server import ServedCluster, served_cluster
from tests.cli.doctor.test_checks import deployment, version

NAMESPACE = {"metadata": {"name": "system", "labels": {"team": "ml"}}}
OURS = deployment("florence-operator")


def configuration(**changes: Any) -> dict[str, Any]:
    webhook = {
        "name": "mpod.kb.io",
        "failurePolicy": "Fail",
        "clientConfig": {"service": {"namespace": "kueue-system", "name": "kueue-webhook"}},
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "resources": ["pods"]}],
        "namespaceSelector": but("kube-system", "kueue-system"),
        **changes,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": "kueue"},
        "webhooks": [webhook],
    }


def but(*names: str) -> dict[str, Any]:
    key = "kubernetes.io/metadata.name"
    return {"matchExpressions": [{"key": key, "operator": "NotIn", "values": list(names)}]}


def test_a_webhook_that_sees_the_operators_pods_is_warned_of() -> None:
    (check,) = operator_pods([configuration()], NAMESPACE, OURS)
    assert check.level is Level.WARN
    assert "kueue-system/kueue-webhook" in check.message
    assert "mpod.kb.io" in check.message
    assert "leave system out of the namespaceSelector" in check.remedy


@pytest.mark.parametrize(
    "harmless",
    [
        {"failurePolicy": "Ignore"},
        {"namespaceSelector": but("system")},
        {"namespaceSelector": {"matchLabels": {"team": "web"}}},
        {"objectSelector": {"matchLabels": {"queue": "yes"}}},
        {"rules": [{"operations": ["UPDATE"], "apiGroups": [""], "resources": ["pods"]}]},
        {"rules": [{"operations": ["*"], "apiGroups": ["batch"], "resources": ["*"]}]},
        {"rules": [{"operations": ["*"], "apiGroups": [""], "resources": ["pods/exec"]}]},
        {"matchConditions": [{"name": "queued", "expression": "false"}]},
    ],
)
def test_one_that_does_not_hold_them_up_is_not(harmless: dict[str, Any]) -> None:
    assert not operator_pods([configuration(**harmless)], NAMESPACE, OURS)


@pytest.mark.parametrize(
    "rule",
    [
        {"operations": ["*"], "apiGroups": ["*"], "resources": ["*/*"]},
        {"operations": ["CREATE", "UPDATE"], "apiGroups": ["", "apps"], "resources": ["*"]},
    ],
)
def test_wildcards_are_read_as_the_api_server_reads_them(rule: dict[str, Any]) -> None:
    assert operator_pods([configuration(rules=[rule], failurePolicy="Fail")], NAMESPACE, OURS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def test_doctor_tells_of_it(cluster: ServedCluster) -> None:
    cluster.do(lambda server: server.before.append(version))
    cluster.put({**OURS, "metadata": {"name": "florence-operator", "namespace": "system"}})
    cluster.put(configuration())
    result = cluster.run("doctor")
    assert "while kueue-system/kueue-webhook is away" in result.stdout
