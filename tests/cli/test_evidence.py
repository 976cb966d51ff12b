"""``florencectl evidence``: what hung ranks left, on a cluster's jobs and on this machine's."""

from __future__ import annotations

import argparse
import os
import pickle
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from florence.config.storage import S3Settings
from florence.storage import Storage, open_storage
from florence_jobs.evidence.report import Evidence, RankStacks
from florence_jobs.local import Records
from florence_operator.api import FlorenceJob
from florence_operator.kube.resources import FLORENCE_JOBS
from florencectl.main import app
from tests.cli.cluster_objects import attempt, job, stage
from tests.cli.cluster_server import served_cluster
from tests.jobs.evidence.test_stacks import READING, WAITING

Run = Callable[..., SimpleNamespace]
MAIN = 0x7F1F3B0F5740
DUMP = pickle.dumps({"entries": [], "version": "2.10", "pg_config": {}})
TOLD = (
    "ranks 0 to 2 wait in all_reduce (florence/stages/trainer.py:221 _count); "
    "rank 3 is in florence/data/shards.py:88 read"
)


def text_of(worker: int, stacks: Sequence[str]) -> bytes:
    ranks = [
        RankStacks(rank=2 * worker + i, process=12 + i, main_thread=MAIN, text=text)
        for i, text in enumerate(stacks)
    ]
    who = f"worker {worker} of stage 'mixed', attempt 2"
    taken = "2027-01-15T08:00:00Z"
    return Evidence(who=who, taken=taken, waited=15.0, ranks=ranks).text().encode()


def fill(storage: Storage, attempt: str, early: str) -> None:
    """What two workers of the newer attempt left, and one of an earlier."""
    storage.write(f"{early}/worker-0.evidence.txt", text_of(0, [READING]))
    storage.write(f"{early}/worker-0.log", b"Step 1\n")
    storage.write(f"{attempt}/worker-0.evidence.txt", text_of(0, [WAITING, WAITING]))
    storage.write(f"{attempt}/worker-1.evidence.txt", text_of(1, [WAITING, READING]))
    storage.write(f"{attempt}/worker-1.nccl-rank-3.pickle", DUMP)
    storage.write(f"{attempt}/worker-0.log", b"Step 2\n")


@pytest.fixture
def on_cluster(tmp_path: Path, s3_settings: S3Settings) -> Iterator[Run]:
    uri = f"s3://florence-tests/{uuid.uuid4().hex}"
    artifacts = {"uri": uri, "endpoint": "http://minio.invalid:9000"}
    with served_cluster(tmp_path) as cluster:
        cluster.put(job(artifacts=artifacts))
        created = cluster.do(lambda server: server.get(FLORENCE_JOBS, "team", "big"))
        assert created is not None
        folder = f"team/big-{created['metadata']['uid'][:8]}/mixed"
        ended = [attempt(n, completionTime="2027-01-15T07:56:00Z", cause="Stalled") for n in (1, 2)]
        running = attempt(3)
        cluster.put(
            job(
                "Running",
                stage("mixed", "Running", attempts=[*ended, running]),
                artifacts=artifacts,
            )
        )
        fill(open_storage(f"{uri}/{folder}", s3_settings), "logs/attempt-2", "logs/attempt-1")
        yield lambda *arguments: cluster.run(
            "evidence", "big", *arguments, "--endpoint", str(s3_settings.endpoint)
        )


@pytest.fixture
def on_machine(tmp_path: Path) -> Run:
    home = tmp_path / "home"
    made = FlorenceJob.model_validate({**job(), "spec": {**job()["spec"], "artifacts": {}}})
    Records(home).save(made)
    folder = Records(home).attempt_folder(made, "mixed", 1).parent
    fill(open_storage(str(folder)), "a2", "a1")

    def run(*arguments: str) -> SimpleNamespace:
        given = ["evidence", "big", "-n", "team", "--local", *arguments]
        result = CliRunner().invoke(app, given, env={"FLORENCE_HOME": str(home)})
        return SimpleNamespace(
            returncode=result.exit_code, stdout=result.stdout, stderr=result.stderr
        )

    return run


@pytest.fixture(params=["on_cluster", "on_machine"])
def run(request: pytest.FixtureRequest) -> Run:
    made: Run = request.getfixturevalue(request.param)
    return made


def test_it_says_who_waits_and_lists_what_each_worker_left(run: Run) -> None:
    got = run("--attempt", "2")
    assert got.returncode == 0, got.stderr
    lines = got.stdout.splitlines()
    assert lines[0] == f"mixed, attempt 2: {TOLD}"
    assert lines[1].split() == ["WORKER", "RANKS", "DUMPS", "SIZE", "TAKEN"]
    assert lines[2].split()[:3] == ["0", "0-1", "0"]
    assert lines[3].split()[:3] == ["1", "2-3", "1"]
    assert lines[3].split()[-1] == "2027-01-15T08:00:00Z"
    assert "other attempts that left evidence: mixed 1" in got.stderr


def test_the_newest_attempt_that_left_some_is_meant(run: Run) -> None:
    assert run().stdout.splitlines()[0].startswith("mixed, attempt 2: ")
    assert run("--stage", "mixed", "--attempt", "1").stdout.splitlines()[0] == (
        "mixed, attempt 1: rank 0 is in florence/data/shards.py:88 read"
    )


def test_the_stacks_of_a_rank_and_all_of_a_worker_are_printed(run: Run) -> None:
    assert run("--attempt", "2", "--rank", "3").stdout == READING
    assert run("--attempt", "2", "--worker", "1").stdout.encode() == text_of(1, [WAITING, READING])


def test_it_is_fetched_with_the_dumps(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "hang"
    got = run("--attempt", "2", "-o", str(folder))
    assert got.returncode == 0, got.stderr
    assert sorted(os.listdir(folder)) == [
        "nccl-rank-3",
        "worker-0.evidence.txt",
        "worker-1.evidence.txt",
    ]
    assert (folder / "nccl-rank-3").read_bytes() == DUMP
    assert got.stdout.splitlines()[0] == str(folder / "worker-0.evidence.txt")


def test_torchfrtrace_reads_the_folder(on_machine: Run, tmp_path: Path) -> None:
    loader = pytest.importorskip("torch.distributed.flight_recorder.components.loader")
    folder = tmp_path / "hang"
    assert on_machine("--attempt", "2", "-o", str(folder)).returncode == 0
    found, version = loader.read_dir(argparse.Namespace(prefix=None, trace_dir=str(folder)))
    assert [dump["rank"] for dump in found.values()] == [3]
    assert version == "2.10"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--attempt", "3"], 3, "there is: stage 'mixed', attempt 1, stage 'mixed', attempt 2"),
        (["--stage", "check"], 3, "none of its ranks was killed"),
        (["--stage", "nothing"], 2, "no stage 'nothing'; it has: mixed, check"),
        (["--attempt", "2", "--rank", "9"], 3, "rank 9 left no evidence; there: 0-3"),
        (["--attempt", "2", "--worker", "9"], 3, "worker 9 left no evidence; there: 0, 1"),
    ],
)
def test_what_is_not_there_says_what_is(
    run: Run, arguments: list[str], code: int, said: str
) -> None:
    got = run(*arguments)
    assert got.returncode == code, got.stderr
    assert said in " ".join(got.stderr.split())
