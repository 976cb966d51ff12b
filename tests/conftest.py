"""Storages that tests of every package may use."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from florence.config.storage import S3Settings
from florence.storage import Storage, open_storage

BUCKET = "florence-tests"

# They need a cluster and break it; `make e2e` asks for them.
collect_ignore = [] if os.environ.get("FLORENCE_E2E") == "1" else ["e2e"]

# Test processes share the cores; threads that wait for each other's turn make them crawl.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background, or nohup, has these ignored, and so would
# programs that tests send them to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# At import, so that processes forked later have them too. A real server's come from outside.
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing-secret")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a GPU are for machines that have one."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if marked and not _has_gpu():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


def _has_gpu() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def s3_settings(request: pytest.FixtureRequest) -> S3Settings:
    """A server with the bucket ``florence-tests``: $FLORENCE_S3_ENDPOINT, or moto in a thread."""
    endpoint = os.environ.get("FLORENCE_S3_ENDPOINT")
    if not endpoint:
        emulated: S3Settings = request.getfixturevalue("emulated_s3_settings")
        return emulated
    assert urlsplit(endpoint).hostname
    return _with_bucket(endpoint)


@pytest.fixture(scope="session")
def emulated_s3_settings() -> Iterator[S3Settings]:
    """Moto in a thread, also where $FLORENCE_S3_ENDPOINT names a real server: it has no users."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield _with_bucket("http://{}:{}".format(*server.get_host_and_port()))
    server.stop()


def _with_bucket(endpoint: str) -> S3Settings:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    if BUCKET not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=BUCKET)
    return S3Settings(endpoint=endpoint, attempts=3)


@pytest.fixture
def s3_storage(s3_settings: S3Settings) -> Storage:
    """An empty storage on S3."""
    return open_storage(f"s3://{BUCKET}/{uuid.uuid4().hex}", s3_settings)


@pytest.fixture
def folder_storage(tmp_path: Path) -> Storage:
    """An empty storage in a folder."""
    return open_storage(str(tmp_path / "storage"))


@pytest.fixture(params=["folder", "s3"])
def any_storage(request: pytest.FixtureRequest) -> Storage:
    """An empty storage, of each kind in turn."""
    storage: Storage = request.getfixturevalue(f"{request.param}_storage")
    return storage
