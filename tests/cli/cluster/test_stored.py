"""What outlives a job's pods: logs and artifacts, read from a real S3 service."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from florence.config.storage import S3Settings
from florence.storage import Entry, open_storage
from florence_operator.kube.resources import FLORENCE_JOBS
from florencectl.cluster.artifacts import summed, targets
from florencectl.cluster.storage_access import artifacts_uri, prepare_credentials
from tests.cli.cluster_objects import attempt, job, stage
from tests.cli.cluster_server import ServedCluster, served_cluster
from tests.operator.fake_apiserver import FakeApiServer

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


@pytest.fixture
def stored(cluster: ServedCluster, s3_settings: S3Settings) -> ServedCluster:
    """A job that has ended, and what it left; its endpoint is one that only pods reach."""
    uri = f"s3://florence-tests/{uuid.uuid4().hex}"
    artifacts = {"uri": uri, "endpoint": "http://minio.invalid:9000"}
    cluster.put(job(artifacts=artifacts))
    created = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
    assert created is not None
    folder = f"team/big-{created['metadata']['uid'][:8]}/mixed"
    ended = attempt(1, completionTime="2027-01-15T07:56:00Z", cause="NodeLost")
    kept = attempt(2, completionTime="2027-01-15T07:59:00Z", logs=f"{uri}/{folder}/logs/attempt-2")
    cluster.put(
        job("Succeeded", stage("mixed", "Succeeded", attempts=[ended, kept]), artifacts=artifacts)
    )
    storage = open_storage(uri, s3_settings)
    storage.write(f"{folder}/logs/attempt-1/worker-0.log", b"first\n")
    storage.write(f"{folder}/logs/attempt-2/worker-0.log", b"a\nb\nc\n")
    storage.write(f"{folder}/model/model.safetensors", b"x" * 2_000_000)
    storage.write(f"{folder}/model/config.json", b"{}")
    return cluster


def test_logs_are_read_from_the_artifacts_once_the_pods_are_gone(
    stored: ServedCluster, s3_settings: S3Settings
) -> None:
    reach = ("--endpoint", str(s3_settings.endpoint))
    last = stored.run("logs", "big", *reach)
    assert (last.returncode, last.stdout) == (0, "a\nb\nc\n")
    assert "the pod is gone" in last.stderr
    assert stored.run("logs", "big", "--tail", "1", *reach).stdout == "c\n"
    assert stored.run("logs", "big", "--attempt", "1", "-f", *reach).stdout == "first\n"
    missing = stored.run("logs", "big", "--rank", "8", *reach)
    assert missing.returncode == 3
    assert "there: worker-0.log" in missing.stderr


def test_artifacts_are_listed_and_fetched(
    stored: ServedCluster, s3_settings: S3Settings, tmp_path: Path
) -> None:
    reach = ("--endpoint", str(s3_settings.endpoint))
    rows = stored.run("artifacts", "ls", "big", "--stage", "mixed", *reach).stdout.splitlines()
    assert [row.split()[-1] for row in rows] == ["PATH", "logs/", "model/"]
    assert rows[2].split()[:2] == ["2", "MB"]
    names = stored.run("artifacts", "ls", "big", "mixed/model", "-o", "name", *reach)
    assert names.stdout.split() == ["mixed/model/config.json", "mixed/model/model.safetensors"]
    target = tmp_path / "out"
    got = stored.run(
        *("artifacts", "get", "big", "model", "--stage", "mixed", "-o", str(target), *reach)
    )
    assert got.returncode == 0, got.stderr
    assert (target / "model/model.safetensors").read_bytes() == b"x" * 2_000_000
    assert sorted(path.name for path in (target / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert stored.run("artifacts", "ls", "big", "nothing", *reach).returncode == 3


def test_folders_are_summed() -> None:
    entries = [Entry("a", 1, 5.0), Entry("b/c", 2, 6.0), Entry("b/d/e", 4, 4.0)]
    rows = {row["path"]: row["bytes"] for row in summed(entries, "")}
    assert rows == {"a": 1, "b/": 6}
    rows = {row["path"]: row["bytes"] for row in summed(entries[1:], "b")}
    assert rows == {"b/c": 2, "b/d/": 4}


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//x", "/etc/x", "a\\x"])
def test_no_key_writes_outside_the_folder(key: str, tmp_path: Path) -> None:
    from florence.errors import ConfigurationError

    with pytest.raises(ConfigurationError):
        list(targets([Entry(key, 1, 0.0)], "", tmp_path))


def test_artifacts_in_a_folder_of_the_pods_cannot_be_reached() -> None:
    from florence.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="only s3:// storage"):
        artifacts_uri(job(artifacts={"uri": "/data"}))


@pytest.mark.parametrize("own", [{}, {"AWS_PROFILE": "me"}])
def test_credentials_are_the_users_own_or_the_jobs(own: dict[str, str]) -> None:
    import asyncio

    environment = dict(own)

    async def run() -> None:
        secret: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "minio", "namespace": "team"},
            "data": {
                "AWS_ACCESS_KEY_ID": base64.b64encode(b"key").decode(),
                "AWS_SECRET_ACCESS_KEY": base64.b64encode(b"word").decode(),
            },
        }
        artifacts = {"uri": "s3://b/r", "credentialsSecret": "minio"}
        async with FakeApiServer() as server, server.client() as client:
            server.put(secret)
            await prepare_credentials(client, job(artifacts=artifacts), environment)

    asyncio.run(run())
    if own:
        assert environment == own
    else:
        assert environment == {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "word"}


WITHOUT_TRAINING = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Refuse())
from florencectl.main import main
sys.argv = ["florencectl", *sys.argv[1:]]
main()
"""


def only_in_other_extras() -> set[str]:
    """The modules that the extra ``train`` brings, and ``cluster`` does not."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    brought = {re.split(r"[><=[]", each)[0] for each in extras["cluster"]}
    others = {re.split(r"[><=[]", each)[0] for each in (*extras["train"], "minio", "kfp")}
    modules = {"pillow": "PIL", "scikit-learn": "sklearn"}
    return {modules.get(each, each.replace("-", "_")) for each in others - brought}


def test_the_extra_cluster_lists_fetches_and_prints_without_torch(
    stored: ServedCluster, s3_settings: S3Settings, tmp_path: Path
) -> None:
    refused = only_in_other_extras()
    assert {"torch", "numpy", "mlflow", "minio"} <= refused
    assert not {"boto3", "kubernetes_asyncio"} & refused
    code = WITHOUT_TRAINING.replace("{EXTRA}", repr(refused))
    reach = ("--endpoint", str(s3_settings.endpoint))
    for words, shown in (
        (("logs", "big"), "c"),
        (("artifacts", "ls", "big", "mixed"), "mixed/model/"),
        (("artifacts", "get", "big", "mixed/model", "-o", str(tmp_path / "out")), "config.json"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words, *reach],
            capture_output=True,
            text=True,
            timeout=300,
            env=stored.environment(),
        )
        assert done.returncode == 0, done.stderr
        assert shown in done.stdout
    assert (tmp_path / "out/model/config.json").read_text() == "{}"
