"""``florencectl pipeline``: every command of docs/pipelines.md, a whole run here among them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("kfp", reason="the extra 'pipelines' is not installed")

from florence_jobs.pipelines.examples import example_arguments
from florence_jobs.registry.references import parse_reference
from florence_jobs.registry.store import ModelRegistry
from florencectl.main import app
from tests.cli.test_documented_commands import ROOT, shown_in
from tests.jobs.pipelines.kfp_server import served_kfp

RUNNER = CliRunner()
LINES = [line.partition("florencectl ")[2] for line in shown_in(ROOT / "docs/pipelines.md")]


def test_pipelines_are_listed_and_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in LINES:
        if line.startswith(("pipeline list", "pipeline compile")):
            result = RUNNER.invoke(app, shlex.split(line))
            assert result.exit_code == 0, result.output
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    assert spec["pipelineInfo"]["name"] == "pretrain-and-adapt"
    refused = RUNNER.invoke(app, ["pipeline", "run", "pretrain-and-adapt"])
    assert (refused.exit_code, "give --local" in refused.stderr) == (2, True)


def test_pipelines_are_submitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = example_arguments("finetune-and-promote")
    (tmp_path / "job.yaml").write_text(given["job"])
    (tmp_path / "evaluation.yaml").write_text(given["evaluation"])
    with served_kfp() as server:
        lines = [line for line in LINES if line.startswith("pipeline submit")]
        for line in lines:
            words = shlex.split(line.replace("http://kfp:8888", server.url))
            result = RUNNER.invoke(app, words)
            assert result.exit_code == 0, result.output
            assert result.stdout.startswith(f"{server.url}/#/")
            assert result.stdout.count("\n") == 1
        assert (len(lines), len(server.runs), len(server.recurring)) == (2, 1, 1)
        (run,) = server.runs
        assert run["runtime_config"]["parameters"]["job"] == given["job"]
        missing = RUNNER.invoke(
            app, ["pipeline", "submit", "nightly-evaluation", "--endpoint", server.url]
        )
        assert (missing.exit_code, "needs " in missing.stderr) == (2, True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_whole_pipeline_runs_here_and_ends_with_registered_models(tmp_path: Path) -> None:
    (line,) = (line for line in LINES if line.startswith("pipeline run"))
    environment = {**os.environ, "FLORENCE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    ran = subprocess.run(
        [sys.executable, "-m", "florencectl.main", *shlex.split(line)],
        env=environment,
        cwd=tmp_path,
        text=True,
        capture_output=True,
        timeout=1700,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
    registry = ModelRegistry(f"sqlite:///{tmp_path}/mlflow.db")
    assert registry.names() == ["digits-classification", "digits-contrastive"]
    champion = registry.find(parse_reference("digits-contrastive@champion"))
    assert champion.metrics["digits/top1"] > 0.2
    reports = list((tmp_path / "pipelines").rglob("report*"))
    assert any("data:image/png" in file.read_text() for file in reports if file.is_file())
