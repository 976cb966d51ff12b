"""The paper's work on videos as jobs (sections 2.6 and 3.8)."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    Augmentation,
    EngineKind,
    Optimizer,
    Precision,
)
from florence.config.evaluate import Evaluate
from florence.config.evaluations import VideoRetrieval
from florence.config.video import VideoPreset, VideoTower
from florence.tasks.video.settings import Video, VideoMode
from florence_jobs.recipes.finetuning import PRETRAINED
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_operator.api import FlorenceJob, Stage
from florence_operator.api.v1alpha1 import Resources


def kinetics(
    data: str = "s3://kinetics/k400-train",
    validation: str = "s3://kinetics/k400-val",
    model: str = PRETRAINED,
) -> FlorenceJob:
    """Action recognition on Kinetics: 86.5 / 97.3 % on 400 classes, 87.8 / 97.8 % on 600.

    384 pixels, 30 epochs, rate 2e-4, drop-path 0.5, label smoothing and RandAugment, 4 x 3 views,
    as the paper has them. Video Swin's: 32 frames with stride 2, crops of 8 % and more, mirrored
    at random, batches of 64, the tower's rate times 0.1, decay 0.05. Inferred: smoothing
    of 0.1, windows small early and large late.

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
        augmentation=Augmentation(scale_min=0.08, flip=True),
        optimizer=Optimizer(lr=2e-4, beta2=0.999, weight_decay=0.05, warmup_steps=10_000),
        precision=Precision.FP16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=2,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    stage = Stage(
        name="kinetics",
        initial_model=model,
        video=settings,
        resources=Resources(workers=8, gpus_per_worker=8, cpu=96, memory="1000Gi"),
    )
    return on_paper_cluster("kinetics", (stage,), deadline="7d")


def msrvtt_zero_shot(data: str = "s3://msrvtt/1ka-test", model: str = PRETRAINED) -> FlorenceJob:
    """Zero-shot text-to-video retrieval on MSR-VTT 1K-A: R@1/5/10 37.6/63.8/72.6 in the paper.

    Args:
        data: shards of the thousand clips, as 'florencectl data import msrvtt' writes of
            JSFUSION's csv.
        model: a two-tower model of images.
    """
    one = VideoRetrieval(name="msrvtt-1ka", data=data)
    stage = Stage(
        name="msrvtt",
        initial_model=model,
        evaluate=Evaluate(video_retrieval=(one,)),
        resources=Resources(workers=1, gpus_per_worker=1, cpu=12, memory="100Gi"),
    )
    return on_paper_cluster("msrvtt", (stage,), deadline="1d")
