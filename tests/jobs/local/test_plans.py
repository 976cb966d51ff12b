from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from florence_jobs.local.plans import (
    build_plan,
    grace,
    keeps_checkpoints,
    local_processes,
    stage_uri,
)
from florence_jobs.recipes.digits import digits
from florence_jobs.recipes.florence import florence_h
from florence_operator.api import Stage
from florence_operator.api.stage import ProgressTarget

TARGET = ProgressTarget(url="http://127.0.0.1:1/progress")


@given(st.integers(1, 600), st.integers(1, 64), st.integers(1, 16), st.integers(0, 8))
def test_ranks_share_the_batch_evenly_and_are_as_many_as_possible(
    batch: int, available: int, workers: int, gpus: int
) -> None:
    stage = Stage.model_validate(
        {
            "name": "s",
            "resources": {"workers": workers, "gpusPerWorker": gpus},
            "pretrain": {"data": "d", "batchSize": batch, "steps": 1},
        }
    )
    count = local_processes(stage, available)
    most = min(available, workers * max(gpus, 1))
    assert count == max(n for n in range(1, most + 1) if batch % n == 0)


def test_a_stage_starts_from_the_artifacts_of_the_one_before() -> None:
    job = digits()
    plans = {
        stage.name: build_plan(
            job,
            stage,
            attempt=1,
            default_artifacts="/home/artifacts",
            default_mlflow="sqlite:///m",
            progress=TARGET,
        )
        for stage in job.spec.in_order()
    }
    assert plans["mixed"].inputs.checkpoint is None
    assert plans["clean"].inputs.checkpoint == plans["mixed"].output
    assert plans["zero-shot"].inputs.checkpoint == plans["clean"].output
    assert plans["clean"].output == "/home/artifacts/default/digits/clean"
    tracking = plans["clean"].tracking
    assert tracking is not None
    assert (tracking.mlflow_uri, tracking.experiment) == ("sqlite:///m", "florence")


def test_what_the_job_says_wins_over_this_machines_defaults() -> None:
    job = florence_h()
    stage = job.spec.stages[0]
    plan = build_plan(
        job, stage, attempt=2, default_artifacts="/a", default_mlflow="sqlite:///m", progress=TARGET
    )
    assert plan.output == "s3://florence/runs/default/florence-h/mixed"
    assert plan.output == stage_uri(job, "mixed", "/a")
    assert plan.storage.endpoint == "http://minio:9000"
    assert plan.tracking is not None
    assert plan.tracking.mlflow_uri == "http://mlflow:5000"


def test_what_keeps_nothing_has_little_time_to_stop() -> None:
    stages = {stage.name: stage for stage in digits().spec.stages}
    assert keeps_checkpoints(stages["mixed"])
    assert not keeps_checkpoints(stages["zero-shot"])
    assert grace(stages["zero-shot"]) < grace(stages["mixed"])
