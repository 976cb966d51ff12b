"""``florencectl plan``: from options and from jobs, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from florencectl.main import app
from tests.florence.data.making import write_shards

RUNNER = CliRunner()
PAPER = Path(__file__).parents[2] / "jobs" / "samples" / "florence-h.yaml"


def plan(*arguments: str) -> Any:
    return RUNNER.invoke(app, ["plan", *arguments])


def planned(*arguments: str) -> dict[str, Any]:
    result = plan(*arguments, "-o", "json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def job_file(folder: Path, **changes: Any) -> Path:
    """The paper's job with changes to its spec."""
    document = yaml.safe_load(PAPER.read_text())
    document["spec"] |= changes
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_the_papers_job_in_ten_days() -> None:
    document = planned("-f", str(PAPER), "--days", "10")
    assert document["parameters"]["total"] == pytest.approx(893e6, rel=0.005)
    assert document["samplesPerSecond"] / 512 == pytest.approx(70, abs=0.05)
    assert document["days"] == 10
    assert document["gpuHours"] == pytest.approx(122_880)
    assert [stage["name"] for stage in document["stages"]] == ["mixed", "clean", "high-resolution"]
    assert document["flops"] / (512 * 312e12 * 864_000) == pytest.approx(0.153, abs=5e-4)
    assert {"image", "text", "head", "total"} == set(document["flopsPerSample"])
    assert document["memoryPerGpu"]["total"] == max(
        stage["memoryPerGpu"]["total"] for stage in document["stages"]
    )


def test_options_describe_one_stage() -> None:
    document = planned(
        *("--preset", "coswin-h", "--resolution", "384", "--window", "12", "--gpus", "64"),
        *("--batch-size", "4096", "--steps", "1000", "--gpu", "H200", "--mfu", "0.5"),
    )
    (stage,) = document["stages"]
    assert (stage["processes"], stage["batchPerGpu"], stage["gpu"]) == (64, 64, "H200")
    rate = 64 * 989.4e12 * 0.5 / stage["flopsPerSample"]["total"]
    assert document["samplesPerSecond"] == pytest.approx(rate)
    assert document["days"] == pytest.approx(4096 * 1000 / rate / 86_400)


def test_gpu_option_goes_before_the_jobs_node_pool() -> None:
    slow, fast = (planned("-f", str(PAPER), *more) for more in ([], ["--gpu", "H100-80GB"]))
    assert slow["days"] / fast["days"] == pytest.approx(989.4 / 312)


def test_yaml_is_the_same_document() -> None:
    result = plan("--preset", "coswin-nano", "-o", "yaml")
    assert yaml.safe_load(result.stdout) == planned("--preset", "coswin-nano")


def test_table_tells_people_what_they_need_and_that_it_is_assumed() -> None:
    result = plan("-f", str(PAPER))
    assert result.exit_code == 0
    for words in ("896M", "high-resolution", "13.", "fits", "Fastest that fits: zeroStage"):
        assert words in result.stdout
    assert "assumption" in result.stderr
    assert "assumption" not in plan("-f", str(PAPER), "--mfu", "0.3").stderr


def test_a_stage_that_does_not_fit_is_told_with_what_would() -> None:
    result = plan("--preset", "coswin-h", "--gpus", "64", "--gpu", "A100-40GB")
    assert result.exit_code == 0
    assert "DOES NOT FIT" in result.stdout
    assert "Fastest that fits" in result.stdout
    result = plan("--preset", "coswin-h", "--gpus", "1", "--batch-size", "65536", "--gpu", "L40S")
    assert "Nothing fits: use more or larger GPUs, or a smaller batch." in result.stdout


def test_jobs_on_cpus_have_memory_only(tmp_path: Path) -> None:
    document = yaml.safe_load(PAPER.read_text())
    stages = document["spec"]["stages"][:1]
    stages[0]["resources"] = {"workers": 2}
    result = plan("-f", str(job_file(tmp_path, stages=stages)))
    assert result.exit_code == 0
    assert "512" not in result.stdout
    assert "time and limits are estimated for GPUs only" in result.stderr


def job_of_epochs(folder: Path, data: str) -> str:
    """A stage that counts in epochs, on two A100s."""
    pretrain = {"data": data, "batchSize": 8, "epochs": 3, "resolution": 32}
    stage = {"name": "a", "resources": {"gpusPerWorker": 2}, "pretrain": pretrain}
    return str(job_file(folder, stages=[stage], model={"preset": "coswin-nano"}))


def test_epochs_are_planned_by_the_size_of_the_data(tmp_path: Path) -> None:
    path = job_of_epochs(tmp_path, "s3://far/away")
    (stage,) = planned("-f", path, "--samples", "1000")["stages"]
    assert (stage["steps"], stage["samples"]) == (375, 3000)
    shards = tmp_path / "shards"
    write_shards(shards, 10, 4)
    path = job_of_epochs(tmp_path, str(shards))
    assert RUNNER.invoke(app, ["data", "index", str(shards), "--workers", "1"]).exit_code == 0
    (stage,) = planned("-f", path)["stages"]
    assert (stage["steps"], stage["samples"]) == (4, 32)
    for index in shards.glob("*.idx"):
        index.unlink()
    result = plan("-f", path)
    assert result.exit_code == 2
    assert "stage 'a' trains for epochs of" in result.stderr
    assert "give --samples, or index the data" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "x"], "unknown preset 'x': use one of coswin-nano"),
        (["--gpu", "x"], "unknown GPU 'x': use one of A100-40GB"),
        (["--batch-size", "1000", "--gpus", "7"], "use a multiple of 7 such as 1001"),
        (["--precision", "fp64"], "precision: must be 'fp32', 'bf16' or 'fp16', not 'fp64'"),
        (["--mfu", "40"], "use 0.4 for 40 %"),
        (["--days", "0"], "must be greater than 0"),
        (["--days", "3", "--mfu", "0.4"], "exclude each other"),
        (["-f", "nowhere.yaml"], "nowhere.yaml: no such file"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    result = plan(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("florencectl: ")
    assert message in line


def test_jobs_with_gpus_of_an_unknown_kind(tmp_path: Path) -> None:
    result = plan("-f", str(job_file(tmp_path, nodePool={})))
    assert result.exit_code == 2
    assert "give --gpu, or spec.nodePool.selector['nvidia.com/gpu.product']" in result.stderr
