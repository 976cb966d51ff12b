"""What doctor makes of what it finds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from florence_operator.api.crd import crd
from florence_operator.api.manifest import from_cluster
from florencectl.cluster.node_fit import node_fits
from florencectl.doctor import checks
from florencectl.doctor.check_pod import check_pod, findings
from florencectl.levels import Level
from tests.cli.cluster_objects import job, node
from tests.cli.cluster_server import ServedCluster, served_cluster

SETTINGS = "integrations:\n  frameworks: [batch/job, kubeflow.org/pytorchjob]\n"
NEW = "integrations:\n  frameworks: [batch/job, trainer.kubeflow.org/trainjob]\n"
BOTH = ["PyTorchJob", "TrainJob"]
OFF = "integrations:\n  frameworks: [batch/job]\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def deployment(name: str, available: int = 1) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "system"},
        "spec": {"template": {"spec": {"containers": [{"image": "i:1"}]}}},
        "status": {"replicas": 2, "availableReplicas": available},
    }


def installed(**changes: Any) -> dict[str, Any]:
    status = {"conditions": [{"type": "Established", "status": "True"}]}
    return {**crd(), "status": status, **changes}


@pytest.mark.parametrize(
    ("check", "level", "words"),
    [
        (checks.api_server({"major": "1", "minor": "28+"}, "u"), Level.FAIL, "?"),
        (checks.api_server({"major": "1", "minor": "29"}, "u"), Level.OK, "u"),
        (checks.custom_resource(None, crd()), Level.FAIL, "not installed"),
        (checks.custom_resource(installed(status={}), crd()), Level.FAIL, "not established"),
        (checks.custom_resource(installed(), crd()), Level.OK, "v1alpha1"),
        (checks.custom_resource(installed(spec={}), crd()), Level.WARN, "schema"),
        (checks.operator([]), Level.FAIL, "no Deployment"),
        (checks.operator([deployment("florence-operator", 0)]), Level.FAIL, "no replica"),
        (checks.operator([deployment("florence-operator")]), Level.OK, "1 of 2 available (i:1)"),
        (checks.operator(None), Level.WARN, "may not be read"),
        (checks.leader(None, 9.0, None), Level.WARN, "no replica leads"),
        (checks.leader({"spec": {"holderIdentity": "x"}}, 9.0, 8.0), Level.OK, "x"),
        (checks.leader({"spec": {"holderIdentity": "x"}}, 99.0, 8.0), Level.FAIL, "for 91 s"),
        (checks.kueue(None, None, (), installed=False), Level.OK, "not installed"),
        (checks.kueue(None, "q", (), installed=False), Level.FAIL, "not installed"),
        (checks.kueue(OFF, None, ()), Level.WARN, "is off"),
        (checks.kueue(OFF, "q", ["q"]), Level.FAIL, "is off"),
        (checks.kueue(SETTINGS, "q", ["p"]), Level.FAIL, "no LocalQueue 'q'"),
        (checks.kueue(SETTINGS, "q", ["q"]), Level.OK, "queues: q"),
        (checks.kueue("[", None, ()), Level.WARN, "is off"),
        (checks.kueue(SETTINGS, "q", ["q"], kinds=["TrainJob"]), Level.FAIL, "trainer.kubeflow"),
        (checks.kueue(NEW, "q", ["q"], kinds=["PyTorchJob"]), Level.FAIL, "kubeflow.org/pytorch"),
        (checks.kueue(NEW, "q", ["q"], kinds=BOTH), Level.OK, "takes TrainJobs; queues: q"),
        (checks.rights([], []), Level.OK, "everything"),
        (checks.rights(["create florencejobs"], []), Level.FAIL, "create florencejobs"),
        (checks.namespace(None, "team"), Level.FAIL, "'team' does not exist"),
        (checks.secret(None, "minio", ["K"]), Level.FAIL, "does not exist"),
        (checks.secret({"data": {"K": ""}}, "minio", ["K", "L"]), Level.FAIL, "lacks L"),
        (checks.secret({"data": {"K": ""}}, "minio", ["K"]), Level.OK, "has K"),
    ],
)
def test_each_finding_has_its_level_and_a_remedy(
    check: checks.Check, level: Level, words: str
) -> None:
    assert check.level is level
    assert words in check.message
    assert check.remedy or level is not Level.FAIL


def test_stages_that_could_never_fit_are_named() -> None:
    found = node_fits([node("a"), node("b")], [], {}, [])
    fits, never = checks.node_pool(found, {}, [("small", 2, 8), ("large", 3, 8)])
    assert (fits.level, fits.message) == (Level.OK, "2 usable, 16 GPUs, 16 free")
    assert never.name == "nodes for 'large'"
    assert "even empty the pool has room for 2" in never.message


def test_the_check_pod_fits_the_restricted_level_and_names_the_secret() -> None:
    artifacts = {"uri": "s3://b/runs", "endpoint": "http://minio:9000", "credentialsSecret": "m"}
    spec = check_pod(from_cluster(job(artifacts=artifacts)), "team", "x")["spec"]
    container = spec["containers"][0]
    assert container["args"] == ["--uri=s3://b/runs/team", "--endpoint=http://minio:9000"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    names = {e["name"] for e in container["env"] if "valueFrom" in e}
    assert {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} <= names


def test_what_the_pod_prints_becomes_checks() -> None:
    lines = [
        "a warning",
        '{"check": "storage write", "ok": true, "message": "s3://b/x"}',
        '{"check": "mlflow", "ok": false, "message": "refused"}',
    ]
    write, mlflow = findings(lines, 1)
    assert (write.name, write.level) == ("storage write", Level.OK)
    assert (mlflow.level, mlflow.message) == (Level.FAIL, "refused")
    assert mlflow.remedy
    (nothing,) = findings(["no module named florence_jobs"], 1)
    assert "ended with 1: no module named" in nothing.message


async def version(request: web.Request) -> web.Response | None:
    if request.path == "/version":
        return web.json_response({"major": "1", "minor": "34", "gitVersion": "v1.34.2"})
    return None


def test_doctor_fails_on_a_cluster_without_florence(cluster: ServedCluster) -> None:
    cluster.do(lambda server: server.before.append(version))
    cluster.do(lambda server: server.groups.clear())
    cluster.put(node("n1"))
    result = cluster.run("doctor")
    assert result.returncode == 1, result.stderr
    table, _, remedies = result.stdout.partition("\n\n")
    assert "  operator: install it as docs/install.md says" in remedies
    rows = {line[:18].strip(): line[20:].split()[0] for line in table.splitlines()[1:]}
    assert rows["API server"] == "OK"
    assert rows["FlorenceJob CRD"] == "FAIL"
    assert rows["operator"] == "FAIL"
    assert rows["backend"] == "FAIL"
    assert rows["Kueue"] == "OK"
    assert rows["nodes"] == "OK"


@pytest.mark.parametrize("versions", [["v1beta2"], ["v1beta1"], ["v1beta2", "v1beta1"]])
def test_doctor_reads_the_version_of_kueue_that_is_there(
    cluster: ServedCluster, versions: list[str]
) -> None:
    cluster.do(lambda server: server.before.append(version))
    cluster.do(lambda server: server.groups.update({"kueue.x-k8s.io": versions}))
    queue = {"apiVersion": f"kueue.x-k8s.io/{versions[0]}", "kind": "LocalQueue"}
    cluster.put({**queue, "metadata": {"name": "a100", "namespace": "team"}})
    table = cluster.run("doctor").stdout
    assert "queues: a100" in table or "settings may not be read" in table
    asked = cluster.do(
        lambda server: [path for _, path in server.requests if "localqueues" in path]
    )
    assert asked == [f"/apis/kueue.x-k8s.io/{versions[0]}/namespaces/team/localqueues"]


def test_every_place_names_the_same_oldest_kubernetes() -> None:
    root = Path(__file__).parents[3]
    said = {
        "docs/install.md": rf"Kubernetes 1\.{checks.OLDEST_MINOR} or newer",
        "charts/florence-operator/README.md": rf"Kubernetes 1\.{checks.OLDEST_MINOR} or newer",
        "charts/florence-operator/Chart.yaml": rf'kubeVersion: ">=1\.{checks.OLDEST_MINOR}\.0-0"',
    }
    for file, words in said.items():
        assert re.search(words, (root / file).read_text()), file
