"""A step that runs a FlorenceJob: the official client against a stand-in API server."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("kubernetes", reason="the extra 'pipelines' is not installed")

import kubernetes

from florence.errors import ConfigurationError, TransientError
from florence_jobs.pipelines import cluster_jobs
from florence_jobs.pipelines.cluster_jobs import ClusterJobs, GoneError, connected
from florence_jobs.pipelines.requests import RUN, named, requested
from florence_jobs.pipelines.results import JobResults
from florence_jobs.pipelines.running import (
    JobFailedError,
    OnTermination,
    TerminatedError,
    run_on_cluster,
)
from florence_operator.api import FlorenceJob
from florence_operator.kube.client import FLORENCE_JOBS
from tests.cli.cluster_server import ServedCluster, served_cluster

pytestmark = pytest.mark.timeout(120)

JOB = yaml.safe_dump(
    {
        "apiVersion": "florence.dev/v1alpha1",
        "kind": "FlorenceJob",
        "metadata": {"name": "digits"},
        "spec": {
            "image": "image:1",
            "artifacts": {"uri": "s3://bucket/runs", "endpoint": "http://127.0.0.1:1"},
            "stages": [{"name": "mixed", "pretrain": {"data": "d", "batchSize": 4, "steps": 100}}],
        },
    }
)
RUNNING = {"number": 1, "startTime": "2027-01-15T07:00:00Z"}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of nothing: whoever has none asks the network for some first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


@pytest.fixture
def waits() -> list[float]:
    """How long a step waited before it asked again."""
    return []


@pytest.fixture
def jobs(cluster: ServedCluster, waits: list[float]) -> ClusterJobs:
    configuration = kubernetes.client.Configuration(host=cluster.server.url)
    configuration.retries = False
    api = kubernetes.client.CustomObjectsApi(kubernetes.client.ApiClient(configuration))
    return ClusterJobs(api, "team", wait=waits.append)


def asked(run: str = "run-1", **settings: Any) -> FlorenceJob:
    return named(requested(JOB, settings=settings), run, "train")


NAME = asked().metadata.name


def put_status(cluster: ServedCluster, phase: str, **stage: Any) -> None:
    """What the operator would write."""

    def put(server: Any) -> None:
        document = server.get(FLORENCE_JOBS, "team", NAME)
        stages = [{"name": "mixed", "state": phase, "attempts": [RUNNING], **stage}]
        server.put({**document, "status": {"phase": phase, "stages": stages}})

    cluster.do(put)


class Told:
    """Hears the lines of a step; each is followed by the next thing that happens."""

    def __init__(self, *then: Callable[[], object]) -> None:
        self.lines: list[str] = []
        self._then = list(then)

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        if self._then:
            self._then.pop(0)()


def nothing() -> None:
    """A line that nothing follows."""


def follow(jobs: ClusterJobs, told: Told, **more: Any) -> JobResults:
    return run_on_cluster(jobs, asked(), say=told, **more)


def succeed(cluster: ServedCluster) -> Callable[[], None]:
    return lambda: put_status(
        cluster, "Succeeded", metrics={"top1": 0.9}, model="s3://bucket/m/model", mlflowRun="r1"
    )


def test_a_job_is_created_followed_and_its_results_are_handed_on(
    cluster: ServedCluster, jobs: ClusterJobs
) -> None:
    def train() -> None:
        progress = {"phase": "train", "step": 10, "total": 100, "loss": 2.5, "etaSeconds": 90}
        put_status(cluster, "Running", progress=progress)

    told = Told(train, nothing, succeed(cluster))
    results = follow(jobs, told)
    assert told.lines == [
        f"job {NAME}: Pending",
        f"job {NAME}: Running",
        "mixed: Running, step 10 of 100, loss 2.5000, 1m30s left",
        f"job {NAME}: Succeeded",
        "mixed: Succeeded, top1 0.9000",
    ]
    assert (results.model, results.metrics, results.mlflow_run) == (
        "s3://bucket/m/model",
        {"top1": 0.9},
        "r1",
    )
    assert "mixed: " in results.note  # that bucket does not exist, which is no reason to fail
    (document,) = cluster.do(lambda server: server.all(FLORENCE_JOBS))
    assert document["metadata"]["labels"][RUN] == "run-1"
    assert document["metadata"]["namespace"] == "team"


def test_a_second_start_of_a_step_adopts_its_job(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    jobs.create_or_adopt({**asked().manifest()})
    uid = jobs.get(NAME)["metadata"]["uid"]  # type: ignore[index]
    told = Told(succeed(cluster))
    follow(jobs, told)
    assert [d["metadata"]["uid"] for d in cluster.do(lambda s: s.all(FLORENCE_JOBS))] == [uid]


def test_one_that_was_suspended_goes_on(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    jobs.create_or_adopt(asked().manifest())
    jobs.suspend(NAME)
    assert jobs.get(NAME)["spec"]["runPolicy"]["suspend"] is True  # type: ignore[index]
    follow(jobs, Told(succeed(cluster)))
    assert jobs.get(NAME)["spec"]["runPolicy"]["suspend"] is False  # type: ignore[index]


def test_another_job_of_its_name_is_left_alone(jobs: ClusterJobs) -> None:
    jobs.create_or_adopt(asked().manifest())
    other = asked(**{"mixed.steps": 7})
    assert other.metadata.name == NAME
    with pytest.raises(ConfigurationError, match="exists and was asked for with another spec"):
        jobs.create_or_adopt(other.manifest())


def test_without_the_role_it_says_which_one(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    cluster.do(lambda server: server.fail(403, "Forbidden"))
    with pytest.raises(ConfigurationError) as caught:
        follow(jobs, Told())
    assert str(caught.value) == (
        "this step may not create florencejobs in namespace team: bind the Role "
        "florence-pipelines to its service account (docs/pipelines.md)"
    )


def test_a_refused_job_says_why(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    cluster.do(lambda server: server.fail(422, "Invalid"))
    with pytest.raises(ConfigurationError, match=r"create florencejobs in namespace team: "):
        follow(jobs, Told())
    cluster.do(lambda server: server.fail(404, "NotFound"))
    with pytest.raises(ConfigurationError, match="install the operator"):
        follow(jobs, Told())


@pytest.mark.parametrize(("code", "exits"), [(3, 3), (4, 4), (None, 1), (137, 1)])
def test_a_failed_job_ends_the_step_with_its_exit_code(
    cluster: ServedCluster, jobs: ClusterJobs, code: int | None, exits: int
) -> None:
    attempt = {**RUNNING, "exitCode": code, "message": "the data is unusable"}

    def fail() -> None:
        put_status(cluster, "Failed", attempts=[attempt])

    with pytest.raises(JobFailedError, match="stage mixed failed: the data is unusable") as caught:
        follow(jobs, Told(fail))
    assert caught.value.exit_code == exits


def test_a_job_that_was_deleted_by_hand_ends_the_step(
    cluster: ServedCluster, jobs: ClusterJobs
) -> None:
    told = Told(lambda: cluster.do(lambda server: server.remove(FLORENCE_JOBS, "team", NAME)))
    with pytest.raises(GoneError, match=f"florencejob team/{NAME} was deleted"):
        follow(jobs, told)


def test_a_namesake_is_not_taken_for_it(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    def replace() -> None:
        def act(server: Any) -> None:
            document = server.get(FLORENCE_JOBS, "team", NAME)
            server.remove(FLORENCE_JOBS, "team", NAME)
            server.put(document)

        cluster.do(act)

    with pytest.raises(GoneError):
        follow(jobs, Told(replace))


def test_an_api_server_that_is_away_is_waited_for(
    cluster: ServedCluster, jobs: ClusterJobs, waits: list[float]
) -> None:
    def away() -> None:
        cluster.do(lambda server: server.fail(0, times=3))
        cluster.do(lambda server: server.fail(503, "ServiceUnavailable", times=2))
        put_status(cluster, "Succeeded")
        cluster.do(lambda server: server.drop_watches())

    told = Told(away)
    follow(jobs, told)
    assert told.lines[-1] == "mixed: Succeeded"
    # The first failure may be that of the watch, which a list follows at once.
    assert waits in ([1.0, 2.0, 4.0, 8.0, 16.0], [1.0, 2.0, 4.0, 8.0])


def test_one_that_stays_away_ends_the_step(
    cluster: ServedCluster, waits: list[float], jobs: ClusterJobs
) -> None:
    cluster.do(lambda server: server.fail(503, "ServiceUnavailable", times=1000))
    moments = iter(range(0, 10**6, 600))
    jobs = ClusterJobs(jobs._api, "team", wait=waits.append, monotonic=lambda: next(moments))
    with pytest.raises(TransientError, match="the API server is away: HTTP 503"):
        follow(jobs, Told())
    assert max(waits) <= 30.0


@pytest.mark.parametrize("cut", ["drop", "expire"])
def test_what_happened_while_no_watch_was_open_is_seen(
    cluster: ServedCluster, jobs: ClusterJobs, cut: str
) -> None:
    def act(server: Any) -> None:
        document = server.get(FLORENCE_JOBS, "team", NAME)
        if cut == "drop":
            server.drop_watches()
        else:
            server.compact()
            server.fail_watches(410, "Expired")
        server.put({**document, "status": {"phase": "Succeeded", "stages": []}})

    told = Told(lambda: put_status(cluster, "Running"), lambda: cluster.do(act))
    follow(jobs, told)
    assert told.lines[-1] == f"job {NAME}: Succeeded"


def test_looking_costs_a_list_and_a_watch(cluster: ServedCluster, jobs: ClusterJobs) -> None:
    """No sleeps and no polling: what changes is told by one watch."""
    steps = [{"phase": "train", "step": n, "total": 9} for n in range(1, 6)]
    updates = [
        lambda step=step: put_status(cluster, "Running", progress=step)  # type: ignore[misc]
        for step in steps
    ]
    follow(jobs, Told(updates[0], nothing, *updates[1:], succeed(cluster)))
    assert cluster.server.counts(path="florencejobs")["GET"] <= 3


@pytest.mark.parametrize("choice", list(OnTermination))
def test_a_terminated_run_lets_go_of_its_job(
    cluster: ServedCluster, jobs: ClusterJobs, choice: OnTermination
) -> None:
    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    told = Told(terminate)
    with pytest.raises(TerminatedError) as caught:
        follow(jobs, told, on_termination=choice)
    assert caught.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    known = jobs.get(NAME)
    if choice is OnTermination.DELETE:
        assert known is None
    else:
        assert known is not None
        suspended = (known["spec"].get("runPolicy") or {}).get("suspend", False)
        assert suspended is (choice is OnTermination.SUSPEND)
    assert told.lines[-1].startswith(f"job {NAME}: ")


def test_artifacts_have_to_be_where_other_steps_find_them(jobs: ClusterJobs) -> None:
    document = asked().manifest()
    del document["spec"]["artifacts"]
    with pytest.raises(ConfigurationError, match=r"spec\.artifacts\.uri"):
        run_on_cluster(jobs, FlorenceJob.model_validate(document))


def test_the_cluster_is_that_of_the_kubeconfig(
    cluster: ServedCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(cluster.kubeconfig)
    )
    assert connected().namespace == "team"
    assert connected("other").namespace == "other"
    assert connected().get("nothing") is None
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none")
    )
    with pytest.raises(ConfigurationError, match="no cluster can be reached"):
        connected()


def test_in_a_pod_it_is_that_of_the_service_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    account = tmp_path / "serviceaccount"
    account.mkdir()
    for name, content in {"token": "t", "ca.crt": "", "namespace": "team\n"}.items():
        (account / name).write_text(content)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    monkeypatch.setattr(cluster_jobs, "_NAMESPACE_FILE", account / "namespace")
    from kubernetes.config import incluster_config

    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(account / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(account / "ca.crt"))
    with pytest.raises(ConfigurationError, match="no cluster can be reached"):
        connected()  # the certificate is empty
    loader = "kubernetes.config.load_incluster_config"
    monkeypatch.setattr(loader, lambda: None)
    assert connected().namespace == "team"
