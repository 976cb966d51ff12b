"""Whose objects the credentials of a job reach: those of its namespace, and shared data."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, eventually, get, kubectl

BUCKET = "florence"
THEIRS = "runs/another-namespace/job-deadbeef/mixed/metrics.json"


def values(secret: str) -> dict[str, str]:
    """What a Secret of the jobs' namespace holds."""
    found = get("secret", secret)
    assert found is not None
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def client(endpoint: str, access_key: str, secret_key: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )


@pytest.fixture
def theirs(storage_endpoint: str) -> Iterator[str]:
    """An object of another namespace, put there by who runs MinIO."""
    root = values("minio-root")
    s3 = client(storage_endpoint, root["MINIO_ROOT_USER"], root["MINIO_ROOT_PASSWORD"])
    s3.put_object(Bucket=BUCKET, Key=THEIRS, Body=b"theirs")
    yield THEIRS
    assert s3.get_object(Bucket=BUCKET, Key=THEIRS)["Body"].read() == b"theirs"
    s3.delete_object(Bucket=BUCKET, Key=THEIRS)


def test_a_namespaces_credentials_are_refused_in_another_namespaces_folder(
    storage_endpoint: str, theirs: str
) -> None:
    held = values("minio")
    assert held["AWS_ACCESS_KEY_ID"] != values("minio-root")["MINIO_ROOT_USER"]
    s3 = client(storage_endpoint, held["AWS_ACCESS_KEY_ID"], held["AWS_SECRET_ACCESS_KEY"])
    own = f"runs/{NAMESPACE}/.test-of-rights"
    s3.put_object(Bucket=BUCKET, Key=own, Body=b"ours")
    assert s3.get_object(Bucket=BUCKET, Key=own)["Body"].read() == b"ours"
    s3.delete_object(Bucket=BUCKET, Key=own)
    assert s3.list_objects_v2(Bucket=BUCKET, Prefix="digits/train/")["KeyCount"]
    for refused in (
        lambda: s3.get_object(Bucket=BUCKET, Key=theirs),
        lambda: s3.put_object(Bucket=BUCKET, Key=theirs, Body=b"ours"),
        lambda: s3.delete_object(Bucket=BUCKET, Key=theirs),
        lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix=theirs),
        lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix="runs/"),
        lambda: s3.copy_object(
            Bucket=BUCKET, Key=own, CopySource={"Bucket": BUCKET, "Key": theirs}
        ),
        lambda: s3.put_object(Bucket=BUCKET, Key="digits/train/mine.tar", Body=b"ours"),
        lambda: s3.list_objects_v2(Bucket=BUCKET, Prefix="mlflow/"),
    ):
        with pytest.raises(ClientError) as told:
            refused()
        assert told.value.response["Error"]["Code"] == "AccessDenied"


def test_a_pod_that_trains_has_no_more_rights(theirs: str) -> None:
    name = jobs.submit(jobs.small_job("least-rights", workers=1, steps=3000))
    jobs.wait_for_commit(name)
    pod = jobs.worker(name, 0)
    own = kubectl("-n", NAMESPACE, "exec", pod, "--", "env")
    assert f"AWS_ACCESS_KEY_ID={values('minio')['AWS_ACCESS_KEY_ID']}\n" in own
    assert "MINIO_ROOT" not in own
    assert values("minio-root")["MINIO_ROOT_PASSWORD"] not in own
    checked = kubectl(
        *("-n", NAMESPACE, "exec", pod, "--", "florencectl", "storage", "check"),
        *("s3://florence/runs", "-n", NAMESPACE, "--read", "digits"),
        *("--endpoint", "http://minio:9000"),
        timeout=300,
    )
    assert "read another namespace's" in checked
    assert "FAIL" not in checked
    jobs.delete(name)
    eventually("the pod is gone", lambda: not jobs.pods(name), timeout=90)
