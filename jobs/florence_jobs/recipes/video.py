"""The paper's work on videos as jobs (sections 2.6 and 3.8)."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    EngineKind,
    ModelConfig,
    Optimizer,
    Precision,
)
from florence.config.evaluate import Evaluate
from florence.config.evaluations import VideoRetrieval
from florence.config.video import VideoPreset, VideoTower
from florence.tasks.video.settings import Video, VideoMode
from florence_jobs.recipes.finetuning import PRETRAINED
from florence_operator.api import FlorenceJob, JobSpec, Stage
from florence_operator.api.pods import NodePool
from florence_operator.api.run_policy import Retries, RunPolicy
from florence_operator.api.v1alpha1 import (
    API_VERSION,
    KIND,
    Artifacts,
    Metadata,
    Resources,
    Tracking,
)


def kinetics(
    data: str = "s3://kinetics/k400-train",
    validation: str = "s3://kinetics/k400-val",
    model: str = PRETRAINED,
) -> FlorenceJob:
    """Action recognition on Kinetics: 86.5 / 97.3 % on 400 classes, 87.8 / 97.8 % on 600.

    384 pixels, 30 epochs, rate 2e-4, drop-path 0.5, label smoothing and RandAugment, 4 x 3 views,
    as the paper has them. Video Swin's: 32 frames with stride 2, batches of 64, the tower's rate
    times 0.1, decay 0.05. Inferred: smoothing of 0.1, windows small early and large late.

    Args:
        data: shards of the training clips, as 'florencectl data import kinetics' writes.
        validation: those of the validation clips.
        model: whose image tower is inflated.
    """
    settings = Video(
        mode=VideoMode.ACTIONS,
        data=data,
        validation=validation,
        batch_size=64,
        epochs=30,
        resolution=384,
        tower=VideoTower(preset=VideoPreset.PAPER),
        drop_path=0.5,
        optimizer=Optimizer(lr=2e-4, beta2=0.999, weight_decay=0.05, warmup_steps=10_000),
        precision=Precision.FP16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=2,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    return _job(
        "kinetics",
        Stage(
            name="kinetics",
            initial_model=model,
            video=settings,
            resources=Resources(workers=8, gpus_per_worker=8, cpu=96, memory="1000Gi"),
        ),
    )


def msrvtt_zero_shot(data: str = "s3://msrvtt/1ka-test", model: str = PRETRAINED) -> FlorenceJob:
    """Zero-shot text-to-video retrieval on MSR-VTT 1K-A: R@1/5/10 37.6/63.8/72.6 in the paper.

    Args:
        data: shards of the thousand clips, as 'florencectl data import msrvtt' writes of
            JSFUSION's csv.
        model: a two-tower model of images.
    """
    one = VideoRetrieval(name="msrvtt-1ka", data=data)
    return _job(
        "msrvtt",
        Stage(
            name="msrvtt",
            initial_model=model,
            evaluate=Evaluate(video_retrieval=(one,)),
            resources=Resources(workers=1, gpus_per_worker=1, cpu=12, memory="100Gi"),
        ),
    )


def _job(name: str, stage: Stage) -> FlorenceJob:
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
            stages=(stage,),
            run_policy=RunPolicy(
                retries=Retries(infrastructure=20, application=2),
                deadline="7d",
                stall_timeout="10m",
            ),
        ),
    )
