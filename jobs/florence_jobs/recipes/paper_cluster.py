"""Where the paper's stages run: CoSwin-H on nodes of A100-40GB, with MinIO and MLflow."""

from __future__ import annotations

from collections.abc import Sequence

from florence.config import ModelConfig
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.pods import NodePool
from florence_operator.api.run_policy import Retries, RunPolicy
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Artifacts, Metadata, Tracking


def on_paper_cluster(name: str, stages: Sequence[Stage], *, deadline: str) -> FlorenceJob:
    """A job of these stages, which may take until the deadline."""
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name=name),
        spec=JobSpec(
            image="florence-jobs:0.1.0",
            model=ModelConfig(preset="coswin-h"),
            artifacts=Artifacts(
                uri="s3://florence/runs", endpoint="http://minio:9000", credentials_secret="minio"
            ),
            tracking=Tracking(mlflow_uri="http://mlflow:5000"),
            node_pool=NodePool(selector={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"}),
            stages=tuple(stages),
            run_policy=RunPolicy(
                retries=Retries(infrastructure=20, application=2),
                deadline=deadline,
                stall_timeout="10m",
            ),
        ),
    )
