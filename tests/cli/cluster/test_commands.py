"""Commands against the stand-in API server, in real processes where they go on for a while."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from florence_operator.kube.client import FLORENCE_JOBS, ApiError
from florencectl.cluster.admitting import PATIENCE_SECONDS, once_admitted
from tests.cli.cluster_objects import attempt, job, pod, stage
from tests.cli.cluster_server import ServedCluster, served_cluster

Result = Any


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def manifest(folder: Path, **metadata: Any) -> str:
    document = job()
    document["metadata"] = {"name": "big", **metadata}
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return str(path)


def told(result: Result) -> tuple[int, str]:
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr


def test_submit_creates_the_job_and_says_how_to_go_on(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    path = manifest(tmp_path)
    dry = cluster.run("submit", "-f", path, "--dry-run=server")
    assert dry.stdout == "florencejob.florence.dev/big created (server dry run)\n"
    assert cluster.do(lambda server: server.all(FLORENCE_JOBS)) == []

    result = cluster.run("submit", "-f", path)
    assert (result.returncode, result.stdout) == (0, "florencejob.florence.dev/big created\n")
    assert "florencectl logs big -f" in result.stderr
    stored = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
    assert stored is not None
    assert stored["spec"] == job()["spec"]

    code, words = told(cluster.run("submit", "-f", path))
    assert code == 1
    assert "job 'big' exists already in namespace 'team'" in words


def test_submit_pretrain_makes_a_job_of_a_cluster(cluster: ServedCluster) -> None:
    result = cluster.run(
        *("submit", "pretrain", "--name", "flags", "--data=s3://bucket/p", "--batch-size=64"),
        *(
            "--steps=10",
            "--image=i:1",
            "--artifacts=s3://bucket/runs",
            "--credentials-secret=minio",
        ),
        *("--workers=2", "--gpus=8", "--queue=a100", "--backend=TrainJob"),
        *("-n", "other", "-o", "json"),
    )
    document = json.loads(result.stdout)
    assert document["metadata"]["namespace"] == "other"
    spec = document["spec"]
    policy = {"queue": "a100", "backend": "TrainJob"}
    assert (spec["image"], spec["runPolicy"]) == ("i:1", policy)
    assert spec["artifacts"] == {"uri": "s3://bucket/runs", "credentialsSecret": "minio"}
    assert spec["stages"][0]["resources"] == {"workers": 2, "gpusPerWorker": 8}


def test_a_namespace_that_contradicts_the_file_is_refused(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    result = cluster.run("submit", "-f", manifest(tmp_path, namespace="a"), "-n", "b")
    assert told(result)[0] == 2
    assert "namespace 'a'" in result.stderr


def test_what_the_webhook_refuses_is_told_in_its_words(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    cluster.do(lambda server: server.fail(422, "Invalid", method="POST", path="florencejobs"))
    code, words = told(cluster.run("submit", "-f", manifest(tmp_path)))
    assert code == 2
    assert "POST" not in words
    assert words.count("\n") == 1


AWAY = (
    'Internal error occurred: failed calling webhook "florencejobs.florence.dev": failed to call '
    "webhook: Post https://florence-operator.florence-system.svc:443/validate: dial tcp: connect: "
    "connection refused"
)


def test_submit_waits_for_a_webhook_that_is_being_started(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    cluster.do(lambda server: server.fail(500, AWAY, method="POST", path="florencejobs"))
    result = cluster.run("submit", "-f", manifest(tmp_path))
    assert (result.returncode, result.stdout) == (0, "florencejob.florence.dev/big created\n")
    assert "the operator's webhook does not answer" in result.stderr
    assert "trying again for 20 s" in result.stderr


@pytest.mark.parametrize(("message", "tries"), [(AWAY, 12), ("etcd is away", 1)])
def test_patience_with_a_webhook_ends_and_is_for_nothing_else(message: str, tries: int) -> None:
    now, asked = [0.0], []

    async def write() -> None:
        asked.append(now[0])
        raise ApiError(500, "InternalError", message)

    async def sleep(seconds: float) -> None:
        now[0] += seconds

    with pytest.raises(ApiError, match=message[:20]):
        asyncio.run(once_admitted(write, clock=lambda: now[0], sleep=sleep))
    assert len(asked) == tries
    assert now[0] <= PATIENCE_SECONDS


@pytest.mark.parametrize(
    ("status", "reason", "code", "words"),
    [
        (403, "Forbidden", 4, "not allowed"),
        (401, "Unauthorized", 4, "does not know who you are"),
        (404, "NotFound", 1, "is the FlorenceJob operator installed?"),
        (500, AWAY, 1, "the operator's webhook does not answer: Internal error"),
    ],
)
def test_refusals_have_exit_codes_of_their_own(
    cluster: ServedCluster, status: int, reason: str, code: int, words: str
) -> None:
    cluster.do(lambda server: server.fail(status, reason, path="florencejobs", times=9))
    result = told(cluster.run("get"))
    assert result[0] == code
    assert words in result[1]


def test_a_cluster_that_does_not_answer_is_named(cluster: ServedCluster, tmp_path: Path) -> None:
    document = yaml.safe_load(cluster.kubeconfig.read_text())
    document["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:1"
    cluster.kubeconfig.write_text(yaml.safe_dump(document))
    code, words = told(cluster.run("get"))
    assert code == 1
    assert "the API server did not answer" in words


def test_get_lists_as_kubectl_does(cluster: ServedCluster) -> None:
    assert told(cluster.run_process("get")) == (0, "no jobs in namespace 'team'\n")
    running = job("Running", stage("mixed", "Running"))
    running["status"]["summary"] = {"stage": "mixed", "progress": "40%", "attempts": 2, "gpus": 16}
    other = job()
    other["metadata"] |= {"name": "small", "namespace": "else", "labels": {"team": "text"}}
    cluster.put(running, other)
    table = cluster.run("get").stdout.splitlines()
    assert " ".join(table[0].split()) == "NAME STATE STAGE PROGRESS ETA LOSS ATTEMPTS AGE"
    assert table[1].split()[:7] == ["big", "Running", "mixed", "40%", "-", "-", "2"]
    assert len(table) == 2
    everywhere = cluster.run("get", "-A", "-o", "wide").stdout.splitlines()
    assert [line.split()[0] for line in everywhere] == ["NAMESPACE", "else", "team"]
    assert everywhere[0].split()[-3:] == ["GPU-HOURS", "GOODPUT", "CHECKPOINT"]
    assert cluster.run("get", "-A", "-l", "team=text", "-o", "name").stdout == (
        "florencejob.florence.dev/small\n"
    )
    one = json.loads(cluster.run("get", "big", "-o", "json").stdout)
    assert (one["kind"], one["metadata"]["name"]) == ("FlorenceJob", "big")
    listed = json.loads(cluster.run("get", "-o", "json").stdout)
    assert (listed["kind"], len(listed["items"])) == ("List", 1)
    assert told(cluster.run("get", "bug")) == (
        3,
        "florencectl: job 'bug' was not found in namespace 'team'; there: big\n",
    )


def test_watch_prints_every_change_as_a_line_of_json(cluster: ServedCluster) -> None:
    cluster.put(job())
    process = cluster.start("get", "-w", "-o", "json")
    assert process.stdout is not None
    assert "status" not in json.loads(process.stdout.readline())
    cluster.put(job("Running", stage("mixed", "Running")))
    assert json.loads(process.stdout.readline())["status"]["phase"] == "Running"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (130, "florencectl: interrupted\n")


def test_suspend_resume_and_retry_change_the_run_policy(cluster: ServedCluster) -> None:
    def policy() -> Any:
        stored = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
        assert stored is not None
        return stored["spec"].get("runPolicy")

    cluster.put(job("Running", stage("mixed", "Running")))
    assert cluster.run("suspend", "big").stdout == "florencejob.florence.dev/big suspended\n"
    assert policy() == {"suspend": True}
    assert cluster.run("suspend", "big").stdout.endswith("suspended already\n")
    assert cluster.run("resume", "big").stdout == "florencejob.florence.dev/big resumed\n"
    assert policy() == {"suspend": False}
    assert cluster.run("stop", "big").stdout == "florencejob.florence.dev/big suspended\n"
    assert policy() == {"suspend": True}
    assert cluster.run("resume", "big", "--detach").returncode == 2
    assert cluster.run("resume", "big").returncode == 0
    assert told(cluster.run("retry", "big")) == (
        1,
        "florencectl: job 'big' is Running: only a failed job can be retried\n",
    )
    failed = job("Failed", stage("mixed", "Failed"))
    failed["status"]["retry"] = 4
    cluster.put(failed)
    assert cluster.run("retry", "big").stdout == "florencejob.florence.dev/big retried\n"
    assert policy() == {"retry": 5}
    code, words = told(cluster.run("suspend", "big"))
    assert code == 1
    assert "is over (Failed)" in words


def test_wait_ends_with_the_job_and_with_its_patience(cluster: ServedCluster) -> None:
    cluster.put(job("Running", stage("mixed", "Running")))
    assert cluster.run("wait", "big", "--for=running").returncode == 0
    code, words = told(cluster.run("wait", "big", "--timeout", "1s"))
    assert code == 5
    assert "it is Running" in words
    assert cluster.run("wait", "big", "--timeout", "soon").returncode == 2
    assert cluster.run("wait", "bug").returncode == 3
    process = cluster.start("wait", "big")
    time.sleep(0.5)  # whether it sees the change as a change or at once must not matter
    failed = attempt(1, cause="Diverged", exitCode=4, message="loss is NaN", completionTime="x")
    failed["completionTime"] = "2027-01-15T07:59:00Z"
    cluster.put(job("Failed", stage("mixed", "Failed", attempts=[failed])))
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output) == (1, "")
    assert "mixed: failed: attempt 1 diverged" in errors
    assert "'florencectl why big'" in errors


def test_delete_asks_unless_told_and_waits_for_the_end(cluster: ServedCluster) -> None:
    cluster.put(job())
    assert told(cluster.run("delete"))[0] == 2
    code, words = told(cluster.run("delete", "--all"))
    assert code == 2
    assert "--yes" in words
    result = cluster.run("delete", "-l", "team=vision", "-y", "--wait")
    assert (result.returncode, result.stdout) == (0, 'florencejob.florence.dev "big" deleted\n')
    assert cluster.run("delete", "big").returncode == 3


@pytest.mark.parametrize("finalizers", [[], ["example.com/other"], ["florence.dev/artifacts"]])
def test_delete_with_artifacts_holds_the_job_until_they_are_removed(
    cluster: ServedCluster, finalizers: list[str]
) -> None:
    """The operator may be late: nothing but the finalizer keeps the job until it has come."""
    kept = job()
    kept["metadata"]["finalizers"] = finalizers
    cluster.put(kept)
    assert cluster.run("delete", "big", "--artifacts").returncode == 0
    stored = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
    assert stored is not None
    assert stored["spec"]["artifacts"]["deleteWithJob"] is True
    assert set(stored["metadata"]["finalizers"]) == {*finalizers, "florence.dev/artifacts"}
    assert "deletionTimestamp" in stored["metadata"]
    assert cluster.do(lambda server: server.counts(path="florencejobs")["PATCH"]) == 1


def test_a_job_that_changes_meanwhile_keeps_what_others_hold_it_by(cluster: ServedCluster) -> None:
    cluster.put(job())

    async def somebody_is_faster(request: web.Request) -> None:
        if request.method == "PATCH" and not others:
            others.append("example.com/other")
            faster = job()
            faster["metadata"]["finalizers"] = list(others)
            cluster.server.put(faster)

    others: list[str] = []
    cluster.server.before.append(somebody_is_faster)
    assert cluster.run("delete", "big", "--artifacts").returncode == 0
    stored = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
    assert stored is not None
    assert stored["metadata"]["finalizers"] == ["example.com/other", "florence.dev/artifacts"]


def test_artifacts_of_a_job_that_is_going_already_are_said_to_stay(cluster: ServedCluster) -> None:
    going = job()
    going["metadata"]["finalizers"] = ["example.com/other"]
    cluster.put(going)
    assert cluster.run("delete", "big").returncode == 0
    code, words = told(cluster.run("delete", "big", "--artifacts"))
    assert code == 1
    assert "is being deleted already" in words
    assert "its artifacts stay" in words


def test_logs_come_from_the_pod_of_the_rank(cluster: ServedCluster) -> None:
    cluster.put(job("Running", stage("mixed", "Running", attempts=[attempt(1)])), pod(0), pod(1))
    cluster.do(
        lambda server: server.logs.update(
            {
                ("team", "big-mixed-a1-worker-0"): "[rank 0] zero\n[rank 1] one\n",
                ("team", "big-mixed-a1-worker-1"): "[rank 8] eight\n more\n[rank 9] nine\n",
            }
        )
    )
    assert cluster.run("logs", "big").stdout == "[rank 0] zero\n[rank 1] one\n"
    assert cluster.run("logs", "big", "--rank", "8").stdout == "[rank 8] eight\n more\n"
    assert told(cluster.run("logs", "big", "--rank", "16"))[0] == 3
    code, words = told(cluster.run("logs", "big", "--stage", "mixd"))
    assert code == 2
    assert "it has: mixed" in words


def test_following_goes_on_with_the_next_attempt(cluster: ServedCluster) -> None:
    first = attempt(1, completionTime="2027-01-15T07:56:00Z", cause="NodeLost")
    second = attempt(2, startTime="2027-01-15T07:57:00Z")
    cluster.do(
        lambda server: server.logs.update(
            {
                ("team", "big-mixed-a1-worker-0"): "first\n",
                ("team", "big-mixed-a2-worker-0"): "second\n",
            }
        )
    )
    cluster.put(job("Recovering", stage("mixed", "Recovering", attempts=[first])), pod(0))
    process = cluster.start("logs", "big", "-f")
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    cluster.put(job("Running", stage("mixed", "Running", attempts=[first, second])), pod(0, 2))
    assert process.stdout.readline() == "second\n"
    cluster.put(job("Succeeded", stage("mixed", "Succeeded", attempts=[first, second])))
    rest, errors = process.communicate(timeout=120)
    assert (process.returncode, rest) == (0, "")
    assert "-- mixed, attempt 2 --" in errors


def test_why_and_describe_answer(cluster: ServedCluster) -> None:
    cluster.put(job("Running", stage("mixed", "Running", attempts=[attempt(1)])))
    assert cluster.run("why", "big").stdout.startswith("Job 'big' runs: stage 'mixed'")
    assert "What happens next:" in cluster.run("describe", "big").stdout
    assert cluster.run("why", "bug").returncode == 3


def test_names_of_jobs_complete_and_failures_offer_nothing(cluster: ServedCluster) -> None:
    cluster.put(job())

    def completed(words: str, index: int) -> list[str]:
        return cluster.run_process(
            _FLORENCECTL_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(index)
        ).stdout.split()

    assert completed("florencectl why b", 2) == ["big"]
    assert completed("florencectl why -n else b", 4) == []
    cluster.do(lambda server: server.fail(403, "Forbidden", times=9))
    assert completed("florencectl why b", 2) == []


def test_submit_follows_the_job_to_its_end(cluster: ServedCluster, tmp_path: Path) -> None:
    process = cluster.start("submit", "-f", manifest(tmp_path), "--wait")
    assert process.stderr is not None
    assert "created in namespace 'team'" in process.stderr.readline()
    done = job(
        "Succeeded",
        stage("mixed", "Succeeded", model="s3://m"),
        stage("check", "Succeeded", metrics={"digits/top1": 0.98}),
    )
    cluster.put(done)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output.splitlines()[1].split() == ["check", "digits/top1", "98.00", "%"]
    assert "model: s3://m" in errors
