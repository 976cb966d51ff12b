from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from florence_operator.kube.resources import FLORENCE_JOBS
from tests.cli.cluster_objects import job, stage
from tests.cli.cluster_server import ServedCluster, served_cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ServedCluster]:
    with served_cluster(tmp_path) as served:
        yield served


def manifest(folder: Path) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**job(), "metadata": {"name": "big"}}))
    return str(path)


def test_a_sweep_creates_its_jobs_once_and_shows_the_best(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    command = ("sweep", "-f", manifest(tmp_path), "--set", "mixed.optimizer.lr=1e-4,3e-4")
    first = cluster.run(*command)
    assert first.returncode == 0, first.stderr
    names = ["big-0", "big-1"]
    assert first.stdout.splitlines() == [f"florencejob.florence.dev/{n} created" for n in names]
    assert "get -l florence.dev/sweep=big -w" in first.stderr
    stored = [cluster.do(lambda server, n=n: server.get(FLORENCE_JOBS, "team", n)) for n in names]
    rates = [each["spec"]["stages"][0]["pretrain"]["optimizer"]["lr"] for each in stored]
    assert rates == [1e-4, 3e-4]
    assert all(each["metadata"]["labels"]["florence.dev/sweep"] == "big" for each in stored)

    assert cluster.run(*command).stdout == ""
    for each, accuracy in zip(stored, (0.5, 0.75), strict=True):
        ended = job("Succeeded", stage("check", "Succeeded", metrics={"digits/top1": accuracy}))
        cluster.put({**each, "status": ended["status"]})
    results = cluster.run(*command, "--wait")
    assert results.returncode == 0, results.stderr
    table = [line.split() for line in results.stdout.splitlines()]
    assert table[0] == ["NAME", "MIXED.OPTIMIZER.LR", "STATE", "CHECK/DIGITS/TOP1"]
    assert [row[0] for row in table[1:]] == ["big-1", "big-0"]
    assert "best: big-1, check/digits/top1 75.00 %" in results.stderr


def test_a_sweep_of_other_settings_under_the_same_name_is_refused(
    cluster: ServedCluster, tmp_path: Path
) -> None:
    path = manifest(tmp_path)
    assert cluster.run("sweep", "-f", path, "--set", "seed=0,1").returncode == 0
    again = cluster.run("sweep", "-f", path, "--set", "seed=0,2")
    assert again.returncode == 1
    assert "job 'big-1' is there with other settings" in again.stderr
