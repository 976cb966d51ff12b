"""The cluster in KUBECONFIG, with manifests/overlays/dev on it.

    make e2e                                        # over the kind of children that auto takes
    make e2e BACKEND=TrainJob                       # over TrainJobs
    make e2e BACKEND=TrainJob ONLY=either_backend   # only what CI runs over both

The images florence-operator:0.1.0 and florence-jobs:0.1.0 must be where its nodes pull from;
FLORENCE_E2E_MINIO_IMAGE names another image of MinIO than the overlay does. Tests that break nodes
need FLORENCE_E2E_MACHINE (see :class:`tests.e2e.kube.Machine`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from florence.config.storage import S3Settings
from florence.storage import Storage, open_storage
from tests.e2e import jobs
from tests.e2e.kube import (
    NAMESPACE,
    SYSTEM,
    KubectlError,
    Machine,
    eventually,
    forwarded,
    get,
    kubectl,
    story,
)
from tests.e2e.weights import digest

ROOT = Path(__file__).parents[2]
OVERLAY = ROOT / "tests/e2e/overlay"


@pytest.fixture(scope="session", autouse=True)
def installed() -> None:
    """Everything that the samples need, applied as the README says, and ready."""
    # MinIO may be a new one, without what an earlier run put there.
    kubectl("-n", NAMESPACE, "delete", "job", "sample-data", "--ignore-not-found")
    documents = list(yaml.safe_load_all(kubectl("kustomize", str(OVERLAY))))
    for document in documents:
        if document["kind"] == "Deployment" and document["metadata"]["name"] in ("minio", "mlflow"):
            _adapt(document["spec"]["template"]["spec"])
    manifest = yaml.safe_dump_all(documents)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=manifest)
    _keep_kueue_on_the_first_node()
    for namespace, what in (
        (SYSTEM, "deployment/florence-operator"),
        (NAMESPACE, "deployment/minio"),
        (NAMESPACE, "deployment/mlflow"),
    ):
        kubectl(*("-n", namespace, "rollout", "status", what, "--timeout=300s"), timeout=320)
    kubectl(
        *("-n", NAMESPACE, "wait", "--for=condition=Complete", "job/sample-data"),
        "--timeout=300s",
        timeout=320,
    )
    eventually("the webhook answers", _webhook_answers, timeout=180, pause=2)


def _adapt(pod: dict[str, Any]) -> None:
    """Another image of MinIO, and a place that outlives the node which tests break."""
    image = os.environ.get("FLORENCE_E2E_MINIO_IMAGE")
    for container in pod["containers"]:
        if image and container["name"] == "minio":
            container["image"] = image
    if Machine.found():
        pod["nodeSelector"] = {"kubernetes.io/hostname": "node1"}


def _keep_kueue_on_the_first_node() -> None:
    """Without its webhook no child can be made, and it has one replica only."""
    namespace, name = "kueue-system", "kueue-controller-manager"
    if not (Machine.found() and get("deployment", name, namespace)):
        return
    patch = {"spec": {"template": {"spec": {"nodeSelector": {"kubernetes.io/hostname": "node1"}}}}}
    kubectl("-n", namespace, "patch", "deployment", name, "-p", json.dumps(patch))
    kubectl(
        *("-n", namespace, "rollout", "status", f"deployment/{name}", "--timeout=300s"),
        timeout=320,
    )


def _webhook_answers() -> bool:
    """A job that only the webhook refuses is refused by it."""
    job = jobs.small_job("probe")
    del job["spec"]["artifacts"]["uri"]
    try:
        kubectl("apply", "--dry-run=server", "-f", "-", given=json.dumps(job))
    except KubectlError as error:
        return "spec.artifacts.uri" in str(error)
    return False


@pytest.fixture(autouse=True)
def told_on_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """A failed test shows what a person would look at."""
    failed = request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        print(story())


@pytest.fixture
def machine() -> Machine:
    """What breaks nodes; the test is skipped where nothing can."""
    found = Machine.found()
    if found is None:
        pytest.skip("FLORENCE_E2E_MACHINE names no program that breaks nodes")
    return found


@pytest.fixture(scope="session")
def storage_endpoint() -> Iterator[str]:
    """MinIO's address on this machine."""
    with forwarded("minio", 9000) as address:
        yield address


@pytest.fixture
def artifacts(storage_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Storage]:
    """Opens an s3:// URI of the cluster's MinIO."""
    import base64

    secret = get("secret", "minio")
    assert secret is not None
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(key, base64.b64decode(secret["data"][key]).decode())
    return lambda uri: open_storage(uri, S3Settings(endpoint=storage_endpoint))


@pytest.fixture
def parameters(artifacts: Callable[[str], Storage]) -> Callable[[str], str]:
    """The digest of the parameters of a job's final model."""

    return lambda name: digest(artifacts(jobs.stage(name)["model"]))


@pytest.fixture(scope="session")
def undisturbed_name() -> Iterator[str]:
    """A small job that nothing happened to."""
    name = jobs.submit(jobs.small_job("undisturbed"))
    jobs.wait_for(name, "Succeeded", timeout=400)
    yield name
    jobs.delete(name)


@pytest.fixture
def undisturbed(undisturbed_name: str, parameters: Callable[[str], str]) -> str:
    """The digest of the parameters of a job that nothing happened to."""
    return parameters(undisturbed_name)
