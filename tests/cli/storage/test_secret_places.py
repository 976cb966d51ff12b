from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import yaml

from florence.errors import ConfigurationError
from florencectl.cluster.connection import Place
from florencectl.storage.credentials import Credentials, secret_document
from florencectl.storage.secret_places import ClusterSecrets, FileSecrets
from tests.cli.cluster_server import served_cluster


def secret(namespace: str, key: str) -> dict[str, object]:
    return secret_document(namespace, "minio", Credentials("user", key), "s3://b/runs")


def test_a_file_of_secrets_is_its_owners_alone_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "secrets.yaml"
    before = os.umask(0)
    try:
        places = FileSecrets(path)
        assert places.get("team", "minio") is None
        for namespace, key in (("team", "a"), ("web", "b"), ("team", "c")):
            places.put(secret(namespace, key))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert places.get("team", "minio") == secret("team", "c")
    assert places.get("web", "minio") == secret("web", "b")
    assert len(list(yaml.safe_load_all(path.read_text()))) == 2
    assert [each.name for each in tmp_path.iterdir()] == ["secrets.yaml"]


@pytest.mark.parametrize("text", ["kind: ConfigMap\n", "a: [", "just words\n"])
def test_another_file_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"mine\.yaml"):
        FileSecrets(path).put(secret("team", "a"))
    assert path.read_text() == text


def test_a_clusters_secrets_are_applied_and_read_back(tmp_path: Path) -> None:
    with served_cluster(tmp_path) as cluster:
        places = ClusterSecrets(Place(kubeconfig=str(cluster.kubeconfig)))
        assert places.get("team", "minio") is None
        for key in ("a", "b"):
            places.put(secret("team", key))
            found = places.get("team", "minio")
            assert found is not None
            assert found["data"] == secret("team", key)["data"]
