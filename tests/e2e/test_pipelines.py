"""The component ``florence_job`` in pods, under the service account of KFP's steps.

KFP's local orchestration starts the steps; ``kfp_pods.py`` beside FLORENCE_E2E_MACHINE makes each a
pod of the cluster, where KFP's back end is not.
"""

from __future__ import annotations

import importlib.util
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e import jobs
from tests.e2e.kube import NAMESPACE, Document, Machine, eventually, get, items, kubectl
from tests.e2e.test_storage import values

ROOT = Path(__file__).parents[2]
STEPS = "florence-kfp-steps"
"""Namespace of the steps: their outputs go through hostPath, which that of the jobs forbids."""
ACCOUNT = "pipeline-runner"
API_SERVER = "kube-apiserver"
SILENCE = 20.0
"""Seconds that the API server does not answer."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever ``kfp.local`` runs is a pod in the namespace of the steps."""
    pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")
    machine = Machine.found()
    path = machine.beside("kfp_pods.py") if machine is not None else None
    if path is None or not path.exists():
        pytest.skip("no kfp_pods.py lies beside FLORENCE_E2E_MACHINE")
    spec = importlib.util.spec_from_file_location("kfp_pods", path)
    assert spec is not None
    assert spec.loader is not None
    kfp_pods = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kfp_pods)

    level = {"pod-security.kubernetes.io/enforce": "privileged"}
    namespace = {"kind": "Namespace", "metadata": {"name": STEPS, "labels": level}}
    account = {"kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": STEPS}}
    for document in (namespace, account):
        kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", **document}))
    # The pods' user is not this one, and both write there.
    before = os.umask(0)
    outputs = tmp_path_factory.mktemp("kfp")
    outputs.chmod(0o777)
    credentials = values("minio")
    kfp_pods.init(
        STEPS,
        service_account=ACCOUNT,
        pipeline_root=str(outputs),
        env=[{"name": name, "value": value} for name, value in credentials.items()],
    )
    yield
    os.umask(before)
    kubectl("delete", "namespace", STEPS, timeout=300)


@pytest.fixture
def role(steps: None) -> Iterator[None]:
    """What manifests/components/pipelines gives, for an account of another namespace."""
    text = (ROOT / "manifests/components/pipelines/rbac.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        document["metadata"]["namespace"] = NAMESPACE
        for subject in document.get("subjects", ()):
            subject["namespace"] = STEPS
    given = yaml.safe_dump_all(documents)
    kubectl("apply", "-f", "-", given=given)
    yield
    kubectl("delete", "--ignore-not-found", "-f", "-", given=given)


class Step:
    """A step of a pipeline's run that is at work; a second one of the same run is its retry."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._run = uuid.uuid4().hex

    def start(self) -> Future[Any]:
        """Start it, and return what its outputs will be."""
        outputs: Future[Any] = Future()

        def run() -> None:
            try:
                outputs.set_result(self._outputs())
            except BaseException as error:
                outputs.set_exception(error)

        # A daemon: what waits for a pod that was lost may wait on when the tests are over.
        threading.Thread(target=run, daemon=True).start()
        return outputs

    def _outputs(self) -> Any:
        from florence_jobs.pipelines import components

        task = components.florence_job(
            run_id=self._run,
            task_name="train",
            job=yaml.safe_dump(self._document),
            namespace=NAMESPACE,
        )
        return task.outputs

    def job(self) -> str:
        """The name of the job that it has made."""

        def made() -> str | None:
            found = items("fj", labels=f"florence.dev/pipeline-run={self._run}")
            return found[0]["metadata"]["name"] if found else None

        return str(eventually("the step makes its job", made, timeout=180))

    def pod(self) -> str:
        """The pod that it runs in."""

        def running() -> str | None:
            pods = items("pods", STEPS, labels="app=kfp-step")
            names = [
                pod["metadata"]["name"]
                for pod in pods
                if pod.get("status", {}).get("phase") == "Running"
                and "deletionTimestamp" not in pod["metadata"]
            ]
            return names[0] if names else None

        return str(eventually("the step runs", running, timeout=180))


@pytest.fixture
def step() -> Iterator[Callable[..., Step]]:
    """Makes steps; their jobs are deleted in the end."""
    made: list[str] = []

    def make(name: str, *, data: str | None = None, steps: int = jobs.STEPS) -> Step:
        document = jobs.small_job(name, workers=1, steps=steps)
        if data is not None:
            document["spec"]["stages"][0]["pretrain"]["data"] = data
        # Steps read what the job left, from another namespace.
        document["spec"]["artifacts"]["endpoint"] = f"http://minio.{NAMESPACE}:9000"
        made.append(name)
        return Step(document)

    yield make
    for job in items("fj"):
        if job["metadata"]["name"].startswith(tuple(made)):
            jobs.delete(job["metadata"]["name"])
    kubectl("-n", STEPS, "delete", "pods", "-l", "app=kfp-step", "--wait=false")


def said_by(started: Future[Any], capfd: pytest.CaptureFixture[str]) -> str:
    """What a step that fails has printed."""
    with pytest.raises(RuntimeError):
        started.result(timeout=600)
    captured = capfd.readouterr()
    return captured.out + captured.err


@pytest.mark.usefixtures("steps")
def test_without_the_role_a_step_says_which_one(
    step: Callable[..., Step], capfd: pytest.CaptureFixture[str]
) -> None:
    said = said_by(step("kfp-forbidden").start(), capfd)
    assert f"may not create florencejobs in namespace {NAMESPACE}: bind the Role" in said
    assert "ended with exit code 2" in said


@pytest.mark.usefixtures("role")
def test_a_step_that_is_lost_adopts_its_job_and_hands_on_what_that_leaves(
    step: Callable[..., Step],
) -> None:
    one = step("kfp-adopted")
    one.start()
    name = one.job()
    uid = get("fj", name)["metadata"]["uid"]  # type: ignore[index]
    kubectl("-n", STEPS, "delete", "pod", one.pod(), "--grace-period=0", "--force")
    # What waits for the first one's pod goes on waiting; a back end of KFP would not.
    outputs = one.start().result(timeout=900)
    job = get("fj", name)
    assert job is not None
    assert job["metadata"]["uid"] == uid
    assert (job["status"]["phase"], len(jobs.attempts(name))) == ("Succeeded", 1)
    assert (outputs["job_name"], outputs["model_uri"]) == (name, jobs.stage(name)["model"])
    assert outputs["model"].metadata["task"] == "contrastive"
    assert outputs["model"].metadata["card"]["resolution"] == 32
    assert f"<h1>{name}</h1>" in Path(outputs["report"].path).read_text()


@pytest.mark.usefixtures("role")
def test_a_terminated_run_suspends_its_job(
    step: Callable[..., Step], capfd: pytest.CaptureFixture[str]
) -> None:
    one = step("kfp-terminated", steps=3000)
    started = one.start()
    name = one.job()
    jobs.wait_for_commit(name)
    # As Argo does: every process of the step is told. The first is not among those of -1.
    kubectl("-n", STEPS, "exec", one.pod(), "--", "sh", "-c", "kill -TERM -1; kill -TERM 1")
    said = said_by(started, capfd)
    assert "suspended after a checkpoint" in said
    assert "ended with exit code 143" in said
    jobs.wait_for(name, "Suspended", timeout=120)


@pytest.mark.usefixtures("role")
def test_a_failed_job_ends_its_step_with_the_exit_code_of_the_stage(
    step: Callable[..., Step], capfd: pytest.CaptureFixture[str]
) -> None:
    one = step("kfp-failed", data="s3://florence/digits/nothing")
    said = said_by(one.start(), capfd)
    assert "stage mixed failed: " in said
    assert "ended with exit code 3" in said


@pytest.mark.usefixtures("role")
def test_a_job_that_somebody_deletes_ends_its_step(
    step: Callable[..., Step], capfd: pytest.CaptureFixture[str]
) -> None:
    one = step("kfp-deleted", steps=3000)
    started = one.start()
    name = one.job()
    jobs.wait_for(name, "Running", timeout=180)
    kubectl("-n", NAMESPACE, "delete", "fj", name)
    said = said_by(started, capfd)
    assert f"florencejob {NAMESPACE}/{name} was deleted while its step waited for it" in said
    assert "ended with exit code 3" in said


@pytest.mark.usefixtures("role")
def test_an_api_server_that_is_silent_delays_a_step_and_nothing_else(
    step: Callable[..., Step], machine: Machine
) -> None:
    one = step("kfp-patient")
    started = one.start()
    name = one.job()
    jobs.wait_for(name, "Running", timeout=180)
    machine.freeze(API_SERVER)
    try:
        time.sleep(SILENCE)
    finally:
        machine.thaw(API_SERVER)
    outputs = started.result(timeout=900)
    assert outputs["job_name"] == name
    assert len(jobs.attempts(name)) == 1
