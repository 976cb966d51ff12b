"""The commands: on a server without users (moto), and on a real MinIO where its program is."""

from __future__ import annotations

import base64
import json
import shlex
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError
from florence.storage import Storage, open_storage
from florence_operator.kube.resources import SECRETS
from florencectl.main import app
from florencectl.storage.policy import Grant, policy
from tests.cli.cluster_objects import job
from tests.cli.cluster_server import ServedCluster, served_cluster
from tests.cli.storage.minio_server import PASSWORD, PROGRAM, USER, minio
from tests.cli.test_documented_commands import ROOT, shown_in

needs_minio = pytest.mark.skipif(
    PROGRAM is None, reason="no MinIO: put minio on the path, or name it in FLORENCE_MINIO"
)


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["storage", *words], catch_exceptions=False)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with minio(tmp_path_factory.mktemp("minio")) as address:
        yield address


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_ROOT_USER", USER)
    monkeypatch.setenv("MINIO_ROOT_PASSWORD", PASSWORD)


def credentials_in(path: Path, namespace: str) -> dict[str, str]:
    for document in yaml.safe_load_all(path.read_text()):
        if document["metadata"]["namespace"] == namespace:
            return {k: base64.b64decode(v).decode() for k, v in document["data"].items()}
    raise AssertionError(f"no Secret of {namespace}")


def opened(
    uri: str, endpoint: str, monkeypatch: pytest.MonkeyPatch, credentials: dict[str, str]
) -> Storage:
    """A storage whose client, made at once, has these credentials."""
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    storage = open_storage(uri, S3Settings(endpoint=endpoint, attempts=1))
    storage.list("x")
    return storage


@needs_minio
def test_a_namespaces_user_is_refused_in_another_namespaces_folder(
    endpoint: str, root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secrets.yaml"
    words = ("prepare", "s3://team-bucket/runs", "--endpoint", endpoint, "--read", "digits")
    whole = (*words, "-n", "vision", "-n", "speech", "--secret-out", str(file))
    first = run(*whole)
    assert first.exit_code == 0, first.output
    assert first.stdout.count(" made") == 7
    before = file.read_bytes()
    again = run(*whole)
    assert (again.exit_code, again.stderr) == (0, "nothing to change\n")
    assert " made" not in again.stdout
    assert " changed" not in again.stdout
    assert file.read_bytes() == before
    keys = {name: credentials_in(file, name) for name in ("vision", "speech")}
    for name in keys:
        assert keys[name]["AWS_SECRET_ACCESS_KEY"] not in first.output
    data = opened(
        "s3://team-bucket/digits",
        endpoint,
        monkeypatch,
        {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD},
    )
    data.write("train/0.tar", b"shard")
    vision = opened("s3://team-bucket/runs/vision", endpoint, monkeypatch, keys["vision"])
    vision.write("a-deadbeef/mixed/metrics.json", b"{}")
    speech = opened("s3://team-bucket/runs/speech", endpoint, monkeypatch, keys["speech"])
    speech.write("b", b"mine")
    for namespace, other in (
        ("vision", "speech/b"),
        ("speech", "vision/a-deadbeef/mixed/metrics.json"),
    ):
        for name, value in keys[namespace].items():
            monkeypatch.setenv(name, value)
        settings = S3Settings(endpoint=endpoint, attempts=1)
        bucket = open_storage("s3://team-bucket/runs", settings)
        for use in (
            lambda bucket=bucket, other=other: bucket.read(other),
            lambda bucket=bucket, other=other: bucket.write(other, b"x"),
            lambda bucket=bucket, other=other: bucket.delete(other),
            lambda bucket=bucket, other=other: bucket.list(other),
            lambda bucket=bucket, other=other: bucket.size(other),
        ):
            with pytest.raises(ConfigurationError, match=r"AccessDenied|403"):
                use()
        assert open_storage("s3://team-bucket/digits", settings).read("train/0.tar") == b"shard"
    # The last ones are speech's: its own folder is open to it, and vision's is not.
    check = ("check", "s3://team-bucket/runs", "--endpoint", endpoint, "--read", "digits", "-n")
    checked = run(*check, "speech")
    assert checked.exit_code == 0, checked.output
    assert "FAIL" not in checked.stdout
    assert run(*check, "vision").exit_code == 1
    assert speech.read("b") == b"mine"
    assert vision.read("a-deadbeef/mixed/metrics.json") == b"{}"


@needs_minio
def test_a_clusters_secret_is_made_replaced_and_used(
    endpoint: str, root: None, cluster: ServedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an overlay whose Secret once held the credentials of who runs the server."""
    old = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}
    data = {key: base64.b64encode(value.encode()).decode() for key, value in old.items()}
    metadata = {"name": "minio", "namespace": "team"}
    cluster.put({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})
    words = ("storage", "prepare", "s3://other-bucket", "--endpoint", endpoint)
    done = cluster.run(*words)
    assert done.returncode == 0, done.stderr
    assert "Secret team/minio" in done.stdout
    assert "who runs the server" in done.stdout
    held = cluster.do(lambda server: server.get(SECRETS, "team", "minio"))
    assert held is not None
    key = base64.b64decode(held["data"]["AWS_ACCESS_KEY_ID"]).decode()
    assert key == Grant("other-bucket", "", "team").user
    assert cluster.run(*words).stderr == "nothing to change\n"
    check = ("storage", "check", "s3://other-bucket", "--endpoint", endpoint)
    for name in old:
        monkeypatch.setenv(name, "")  # set, so that what the command sets is undone
    assert cluster.run(*check, "--secret", "minio").returncode == 0
    # The server was made anew: what the Secret holds is made there again.
    lost = cluster.run("storage", "prepare", "s3://third-bucket", "--endpoint", endpoint)
    assert lost.returncode == 2
    assert f"credentials of '{key}'" in lost.stderr
    assert (
        cluster.run("storage", "check", "s3://bucket", "-n", "x", "--secret", "no").returncode == 3
    )


@needs_minio
def test_root_is_told_that_it_may_do_too_much(
    endpoint: str, root: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "secrets.yaml")
    run("prepare", "s3://root-bucket", "--endpoint", endpoint, "-n", "x", "--secret-out", out)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", USER)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    found = run("check", "s3://root-bucket", "--endpoint", endpoint, "-n", "x", "-o", "json")
    assert found.exit_code == 1
    levels = {each["check"]: each["result"] for each in json.loads(found.stdout)}
    assert levels["conditional write"] == "OK"
    assert levels["read another namespace's"] == "FAIL"
    assert levels["write another namespace's"] == "FAIL"
    whole = open_storage("s3://root-bucket", S3Settings(endpoint=endpoint, attempts=1))
    assert whole.list() == []


@needs_minio
def test_wrong_credentials_are_told_in_a_line_without_them(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIO_ROOT_USER", USER)
    monkeypatch.setenv("MINIO_ROOT_PASSWORD", "not-the-password")
    out = str(tmp_path / "secrets.yaml")
    done = run("prepare", "s3://bucket", "--endpoint", endpoint, "-n", "x", "--secret-out", out)
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1
    assert "the credentials are wrong" in done.stderr
    assert "not-the-password" not in done.output
    assert not Path(out).exists()


def test_where_users_cannot_be_made_their_policies_are_printed(
    emulated_s3_settings: S3Settings,
) -> None:
    bucket = f"shared-{uuid.uuid4().hex[:8]}"
    client = boto3.client("s3", endpoint_url=emulated_s3_settings.endpoint, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    client.put_bucket_lifecycle_configuration(
        Bucket=bucket,
        LifecycleConfiguration={
            "Rules": [
                {
                    "ID": "mine",
                    "Status": "Enabled",
                    "Filter": {"Prefix": "tmp/"},
                    "Expiration": {"Days": 3},
                }
            ]
        },
    )
    words = ("prepare", f"s3://{bucket}/runs", "--endpoint", str(emulated_s3_settings.endpoint))
    done = run(*words, "-n", "team", "-o", "json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["policies"] == {"team": policy(Grant(bucket, "runs", "team"))}
    assert [step["result"] for step in document["steps"]] == [
        *("unchanged", "changed", "made", "left to you")
    ]
    assert "is no MinIO" in done.stderr
    assert client.get_bucket_versioning(Bucket=bucket)["Status"] == "Suspended"
    rules = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    by_name = {rule["ID"]: rule for rule in rules}
    assert by_name["mine"]["Expiration"] == {"Days": 3}
    stale = by_name["florence-stale-uploads"]["AbortIncompleteMultipartUpload"]
    assert stale == {"DaysAfterInitiation": 1}
    assert "nothing to change" in run(*words, "-n", "team").stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("prepare", "runs", "-n", "x"), "is no bucket"),
        (("prepare", "s3://k:hush@b", "-n", "x"), "holds credentials"),
        (("prepare", "s3://bucket"), "which namespace"),
        (("prepare", "s3://bucket", "-n", "X"), "name of a namespace"),
        (("prepare", "s3://bucket", "-n", "x", "--endpoint", "minio:9000"), "--endpoint"),
        (("gc", "s3://bucket"), "which jobs exist"),
        (("gc", "s3://bucket", "--job", "a/b", "--older-than", "soon"), "--older-than"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: tuple[str, ...], told: str) -> None:
    done = run(*words)
    assert done.exit_code == 2
    assert told in done.stderr
    assert "hush" not in done.output


HEX = "0" * 32
LEFT = {
    f"data/step-20/1-{HEX}/shard": 1000,
    "commits/000000000020-1.json": 10,
    f"model/1-{HEX}/model.safetensors": 500,
    "model/commit-1.json": 20,
}


@pytest.fixture
def shared(cluster: ServedCluster, s3_settings: S3Settings) -> tuple[str, Storage]:
    """A bucket's prefix with a job that exists, one that is gone, and somebody's file."""
    uri = f"s3://florence-tests/{uuid.uuid4().hex}"
    cluster.put(job(artifacts={"uri": uri}))
    storage = open_storage(uri, s3_settings)
    for folder in ("team/big-12345678", "team/big-deadbeef"):
        for rest, size in LEFT.items():
            storage.write(f"{folder}/mixed/{rest}", b"x" * size)
    storage.write("team/notes.txt", b"mine")
    return uri, storage


def test_garbage_is_listed_then_deleted_and_jobs_that_exist_are_not_touched(
    cluster: ServedCluster, shared: tuple[str, Storage], s3_settings: S3Settings
) -> None:
    uri, storage = shared
    uid = cluster.do(lambda server: _uid(server))
    there = f"team/big-{uid[:8]}"
    if there != "team/big-12345678":
        for rest, size in LEFT.items():
            storage.write(f"{there}/mixed/{rest}", b"x" * size)
    before = {entry.key for entry in storage.list()}
    words = ("storage", "gc", uri, "--endpoint", str(s3_settings.endpoint))
    lacking = cluster.run(*words, "--older-than", "0s")
    assert "-n team says it had" in lacking.stderr
    assert "0 objects may go" in lacking.stderr
    cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    young = cluster.run(*words)
    assert young.returncode == 0, young.stderr
    assert "written to lately" in young.stderr
    assert "0 objects may go" in young.stderr
    keep = ("--older-than", "0s", "--job", "team/big-12345678")
    dry = cluster.run(*words, *keep)
    assert "team/big-deadbeef   checkpoints         2" in dry.stdout
    assert "dry run" in dry.stderr
    assert {entry.key for entry in storage.list()} == before
    gone = cluster.run(*words, *keep, "--yes", "-o", "json")
    assert gone.returncode == 0, gone.stderr
    assert json.loads(gone.stdout)["deleted"] == [
        {"job": "team/big-deadbeef", "what": "checkpoints", "objects": 2, "bytes": 1010}
    ]
    left = {entry.key for entry in storage.list()}
    assert before - left == {f"team/big-deadbeef/mixed/{rest}" for rest in list(LEFT)[:2]}
    cluster.run(*words, *keep, "--yes", "--everything")
    assert not [entry for entry in storage.list() if "deadbeef" in entry.key]
    assert storage.read("team/notes.txt") == b"mine"
    assert len(storage.list(f"{there}/")) == len(LEFT)


def _uid(server: Any) -> str:
    from florence_operator.kube.resources import FLORENCE_JOBS

    return str(server.get(FLORENCE_JOBS, "team", "big")["metadata"]["uid"])


def test_usage_is_summed(shared: tuple[str, Storage], s3_settings: S3Settings) -> None:
    uri, _ = shared
    words = ("usage", uri, "--endpoint", str(s3_settings.endpoint))
    found = json.loads(run(*words, "-o", "json").stdout)
    rows = {(each["job"], each["kind"]): (each["objects"], each["bytes"]) for each in found}
    assert rows["big-deadbeef", "checkpoint"] == (2, 1010)
    assert rows["big-deadbeef", "model"] == (2, 520)
    assert rows[None, "other"] == (1, 4)
    table = run(*words, "--by", "namespace", "-n", "team")
    assert table.stdout.splitlines()[1].split() == ["team", "9", "3.06", "kB"]
    assert "9 objects" in table.stderr


@needs_minio
def test_the_pages_commands_do_what_it_says(
    endpoint: str,
    root: None,
    cluster: ServedCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One after another, as docs/storage.md shows them; the lines below are the page's."""
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/storage.md"
    own = {"AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD}
    outputs = []
    for line in shown_in(page):
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        words = shlex.split(line.replace("http://minio:9000", endpoint))[1:]
        done = cluster.run(*words)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        outputs.append(done.stdout)
        if len(outputs) == 1:
            cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "vision"}})
            storage = open_storage("s3://florence/runs", S3Settings(endpoint=endpoint))
            for rest, size in LEFT.items():
                storage.write(f"vision/gone-deadbeef/mixed/{rest}", b"x" * size)
    text = page.read_text()
    for output in (outputs[0], outputs[2]):
        for row in output.splitlines():
            assert row.rstrip() in text
    assert json.loads(outputs[4])[0]["job"] == "gone-deadbeef"
    assert (tmp_path / "secrets.yaml").exists()
