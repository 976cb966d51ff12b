from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prometheus_client import CollectorRegistry

from florence_operator.api.crd import crd
from florence_operator.runtime.metrics import Metrics
from florence_operator.settings import OperatorConfiguration, load_settings
from florencectl.main import load_command
from tests.charts.rendering import (
    CHART,
    HELM,
    KUBECTL,
    OVERLAYS,
    ROOT,
    kustomize,
    of_kind,
    pod_specs,
    restricted_problems,
    rules,
    template,
)

needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not on PATH")
CI_VALUES = sorted(CHART.glob("ci/*-values.yaml"))
BASE_ROLES = [
    document
    for path in ROOT.glob("manifests/base/rbac/*.yaml")
    for document in yaml.safe_load_all(path.read_text())
]


def test_schema_and_table_of_values_are_fresh() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "charts/generate.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


def test_every_value_is_documented() -> None:
    table = (CHART / "README.md").read_text()
    for line in re.findall(r"^\| `([^`]+)` \| `[^`]*` \| (.*) \|$", table, re.MULTILINE):
        assert len(line[1]) > 10, f"{line[0]} has no description in values.yaml"


def test_the_schema_takes_the_defaults_and_nothing_unknown() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    validator.validate(values)
    for wrong in (
        {"replica": 3},
        {"rbac": {"scope": "some"}},
        {"rbac": {"scopes": "cluster"}},
        {"config": {"apiClient": {"qsp": 1}}},
        {"config": {"apiClient": {"qps": 0}}},
        {"config": {"failures": {"nodeGrace": "soon"}}},
        {"config": {"watchNamespaces": ["a"]}},
        {"replicas": 0},
        {"image": {"digest": "latest"}},
    ):
        assert list(validator.iter_errors({**values, **wrong})), wrong


def test_no_role_has_a_wildcard_or_reads_secrets() -> None:
    for document in of_kind(BASE_ROLES, "Role", "ClusterRole"):
        for rule in document["rules"]:
            assert "*" not in [word for words in rule.values() for word in words]
            if "nonResourceURLs" in rule:
                assert document["metadata"]["name"] == "florence-operator-metrics-reader"
                assert rule == {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
                continue
            if "secrets" in rule["resources"]:
                assert rule["verbs"] == ["patch"]
                assert rule["resourceNames"] == ["florence-operator-tls"]
            if "leases" in rule["resources"] and rule["verbs"] != ["create"]:
                assert rule["resourceNames"] == ["florence-operator"]


def test_the_dashboard_is_valid() -> None:
    dashboard = json.loads((CHART / "dashboards/florence.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids) >= 10
    assert all(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)


def test_dashboard_and_alerts_read_metrics_that_exist() -> None:
    metrics = Metrics(CollectorRegistry())
    exposed = {sample for family in metrics.registry.collect() for sample in (family.name,)}
    texts = [
        (CHART / path).read_text()
        for path in ("dashboards/florence.json", "templates/prometheusrule.yaml")
    ]
    read = set(
        re.findall(
            r"\b((?:florence|controller_runtime|workqueue|rest_client)_[a-z_]+)\b(?!-)",
            "".join(texts),
        )
    )
    assert len(read) > 8
    assert {re.sub("_(total|bucket)$", "", name) for name in read} <= exposed


@needs_helm
def test_lint() -> None:
    run = subprocess.run(
        [HELM or "", "lint", "--strict", str(CHART)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


@needs_helm
@pytest.mark.parametrize("values", CI_VALUES, ids=lambda path: path.stem)
def test_rendered_objects(values: Path, tmp_path: Path) -> None:
    documents, problem = template(values)
    assert documents, problem
    names = [(d["kind"], d["metadata"].get("namespace"), d["metadata"]["name"]) for d in documents]
    assert len(set(names)) == len(names)
    for name, pod in pod_specs(documents):
        assert not restricted_problems(pod), name
    for role, listed in rules(documents).items():
        for rule in listed:
            listed_words = [word for words in rule.values() for word in words]
            assert "*" not in listed_words, role
            assert "secrets" not in listed_words or rule["verbs"] == ["patch"], role
    settings_file = tmp_path / "config.yaml"
    configuration = next(d for d in of_kind(documents, "ConfigMap") if "config.yaml" in d["data"])
    settings_file.write_text(configuration["data"]["config.yaml"])
    settings = load_settings(settings_file)
    webhooks = of_kind(documents, "ValidatingWebhookConfiguration")
    assert settings.webhook.enabled is bool(webhooks)
    for webhook in webhooks:
        assert webhook["metadata"]["name"] == settings.webhook.configuration
    secrets = [d["metadata"]["name"] for d in of_kind(documents, "Secret")]
    assert secrets == ([settings.certificates.secret] if settings.certificates.self_made else [])


@needs_helm
def test_ports_are_those_of_the_settings() -> None:
    documents, _ = template()
    (deployment,) = of_kind(documents, "Deployment")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    settings = OperatorConfiguration()
    assert ports == {
        "webhook": settings.webhook.port,
        "progress": settings.progress.port,
        "health": settings.health_port,
        "metrics": settings.metrics.port,
    }
    (service,) = of_kind(documents, "Service")
    exposed = {port["name"]: port["port"] for port in service["spec"]["ports"]}
    assert exposed["metrics"] == settings.metrics.port


@needs_helm
@pytest.mark.parametrize("protected", [True, False])
def test_the_monitor_shows_a_token_where_one_is_asked_for(protected: bool) -> None:
    documents, problem = template(
        {"serviceMonitor": {"enabled": True}, "config": {"metrics": {"protected": protected}}}
    )
    assert documents, problem
    (monitor,) = of_kind(documents, "ServiceMonitor")
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint.get("scheme") == "https") is protected
    assert ("bearerTokenFile" in endpoint) is protected
    if protected:
        tls = endpoint["tlsConfig"]
        assert tls["serverName"] == "florence-operator.florence-system.svc"
        assert tls["ca"]["secret"] == {"name": "florence-operator-tls", "key": "ca.crt"}
    reader = rules(documents)["florence-operator-metrics-reader"]
    assert reader == [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]


@needs_helm
def test_roles_are_those_of_the_kustomize_base() -> None:
    documents, _ = template()
    rendered = {name: r for name, r in rules(documents).items() if not name.endswith("-test")}
    expected = rules(BASE_ROLES)
    renamed = {
        name.replace("florence-operator-viewer", "florence-viewer")
        .replace("florence-operator-editor", "florence-editor")
        .replace("florence-operator-admin", "florence-admin"): listed
        for name, listed in rendered.items()
    }
    assert renamed == expected
    for kind in ("ClusterRoleBinding", "RoleBinding"):
        roles = {
            document["roleRef"]["name"]
            for document in of_kind(documents, kind)
            if not document["roleRef"]["name"].endswith("-test")
        }
        assert roles == {d["roleRef"]["name"] for d in of_kind(BASE_ROLES, kind)}


@needs_helm
def test_nodes_may_be_tainted_only_where_the_settings_ask_for_it() -> None:
    def verbs(values: dict[str, Any]) -> set[str]:
        documents, _ = template(values)
        return {
            verb
            for role in of_kind(documents, "ClusterRole")
            for rule in role["rules"]
            if "nodes" in rule.get("resources", ())
            for verb in rule["verbs"]
        }

    assert verbs({}) == verbs({"config": {"failures": {"taintNodes": "none"}}}) == {"list", "watch"}
    assert "patch" in verbs({"config": {"failures": {"taintNodes": "NoSchedule"}}})


@needs_helm
def test_namespaced_scope_gives_rights_in_those_namespaces_only() -> None:
    documents, _ = template({"rbac": {"scope": "namespaced"}, "watchNamespaces": ["a", "b"]})
    own = {d["metadata"]["name"]: d for d in of_kind(documents, "ClusterRole")}
    assert "florence-operator-jobs" not in own
    places = {
        d["metadata"]["namespace"]: d["rules"]
        for d in of_kind(documents, "Role")
        if d["metadata"]["name"] == "florence-operator-jobs"
    }
    assert places == dict.fromkeys("ab", rules(BASE_ROLES)["florence-operator-jobs"])


@needs_helm
@pytest.mark.parametrize("enabled", [True, False])
def test_the_crd_can_be_left_out_and_is_kept(enabled: bool) -> None:
    documents, _ = template({"crds": {"enabled": enabled}})
    found = of_kind(documents, "CustomResourceDefinition")
    assert len(found) == enabled
    if enabled:
        assert found[0]["spec"] == crd()["spec"]
        assert found[0]["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@needs_helm
def test_a_changed_setting_rolls_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        (deployment,) = of_kind(template(values)[0], "Deployment")
        annotations = deployment["spec"]["template"]["metadata"]["annotations"]
        return str(annotations["florence.dev/config-checksum"])

    assert checksum({}) == checksum({})
    assert checksum({}) != checksum({"config": {"apiClient": {"qps": 5}}})


@needs_helm
@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"certificates": {"certManager": {"enabled": True}, "existingSecret": "a"}},
            "certificates: ",
        ),
        ({"certificates": {"existingSecret": "a"}}, "certificates.caBundle: "),
        ({"certificates": {"caBundle": "Q0E="}}, "certificates.caBundle: "),
        ({"rbac": {"scope": "namespaced"}}, "watchNamespaces: "),
        ({"watchNamespaces": ["a"]}, "watchNamespaces: "),
        ({"config": {"leaderElection": {"enabled": False}}}, "config.leaderElection.enabled: "),
        ({"serviceAccount": {"create": False}}, "serviceAccount.name: "),
        ({"jobNetworkPolicy": {"enabled": True}}, "jobNetworkPolicy.namespaces: "),
        ({"replcas": 1}, "replcas"),
        ({"config": {"apiClient": {"qsp": 1}}}, "qsp"),
    ],
)
def test_contradictions_and_unknown_values_are_refused(values: dict[str, Any], named: str) -> None:
    documents, problem = template(values)
    assert not documents
    assert named in problem


@needs_helm
def test_objects_follow_the_releases_name() -> None:
    documents, _ = template(release="blue")
    (deployment,) = of_kind(documents, "Deployment")
    assert deployment["metadata"]["name"] == "blue-florence-operator"
    (webhook,) = of_kind(documents, "ValidatingWebhookConfiguration")
    assert webhook["webhooks"][0]["clientConfig"]["service"]["name"] == "blue-florence-operator"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_settings_of_the_overlays_are_valid(overlay: Path) -> None:
    for path in (ROOT / "manifests/base/manager/config.yaml", overlay / "config.yaml"):
        if path.exists():
            assert load_settings(path).certificates.self_made


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_overlays(overlay: Path) -> None:
    documents = kustomize(overlay)
    for name, pod in pod_specs(documents):
        assert not restricted_problems(pod), name
    configurations = {d["metadata"]["name"] for d in of_kind(documents, "ConfigMap")}
    for name, pod in pod_specs(documents):
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in configurations, name
    for namespace in of_kind(documents, "Namespace"):
        labels = namespace["metadata"]["labels"]
        assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    if overlay.name == "namespaced":
        jobs = [d for d in documents if d["metadata"]["name"] == "florence-operator-jobs"]
        assert {d["kind"] for d in jobs} == {"Role", "RoleBinding"}
        assert {d["metadata"]["namespace"] for d in jobs} == {"florence"}
        (binding,) = of_kind(jobs, "RoleBinding")
        assert binding["roleRef"]["kind"] == "Role"


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
@pytest.mark.parametrize("folder", ["manifests/overlays/dev", "tests/e2e/overlay"])
def test_only_minio_and_what_prepares_it_have_its_roots_credentials(folder: str) -> None:
    documents = kustomize(ROOT / folder)
    (root,) = [d for d in of_kind(documents, "Secret") if d["metadata"]["name"] == "minio-root"]
    # A job that named this Secret would find nothing in it that its pods look for.
    assert set(root["data"]) == {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}
    users = {name: _secrets_of(pod) for name, pod in pod_specs(documents)}
    assert {name for name, secrets in users.items() if "minio-root" in secrets} == {
        "Deployment/minio",
        "Job/sample-data",
    }
    assert users["Deployment/mlflow"] == {"mlflow-storage"}
    job = next(pod for name, pod in pod_specs(documents) if name == "Job/sample-data")
    prepared = {}
    for container in job["initContainers"]:
        program, group, verb, uri, *options = container["command"]
        assert (program, group, verb) == ("florencectl", "storage", "prepare")
        context = load_command("storage").commands[verb].make_context(verb, [uri, *options])
        assert context.params["namespaces"] == ["florence"]
        prepared[context.params["secret"]] = uri
    assert prepared == {"minio": "s3://florence/runs", "mlflow-storage": "s3://florence/mlflow"}
    allowed = rules(documents)[job["serviceAccountName"]]
    assert [rule["resources"] for rule in allowed] == [["secrets"], ["secrets"]]
    named, others = allowed
    assert (set(named["resourceNames"]), named["verbs"]) == (set(prepared), ["get", "patch"])
    assert others["verbs"] == ["create"]
    (mlflow,) = [d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == "mlflow"]
    words = mlflow["spec"]["template"]["spec"]["containers"][0]["command"]
    assert f"--artifacts-destination={prepared['mlflow-storage']}/florence" in words


def _secrets_of(pod: dict[str, Any]) -> set[str]:
    """The Secrets that the environment of a pod's containers takes from."""
    containers = [*pod.get("initContainers", ()), *pod["containers"]]
    sources = [each.get("valueFrom", {}) for c in containers for each in c.get("env", ())]
    return {source["secretKeyRef"]["name"] for source in sources if "secretKeyRef" in source}
