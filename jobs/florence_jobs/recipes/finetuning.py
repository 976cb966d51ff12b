"""The paper's fine-tunings of its pretrained model as jobs (section 3.2 and 3.4)."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    EngineKind,
    ModelConfig,
    Optimizer,
    Precision,
)
from florence.tasks.finetune.settings import CaptionPairs, Finetune, Mode
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

PRETRAINED = "s3://florence/models/florence-h"


def imagenet_finetune(
    data: str = "s3://imagenet/train",
    validation: str = "s3://eval/imagenet-val",
    model: str = PRETRAINED,
) -> FlorenceJob:
    """ImageNet with the loss of pretraining, class names as texts: 90.05 % top-1 in the paper.

    512 pixels, 8,192 images a step, 10 epochs, 500 steps of warm-up, peak 2e-5. Windows of 16 are
    inferred: at 512 pixels they tile every map.

    Args:
        data: labelled shards of the training set, or its class folders.
        validation: those of the validation set.
        model: what is fine-tuned.
    """
    settings = Finetune(
        mode=Mode.CONTRASTIVE,
        data=data,
        validation=validation,
        prompts="imagenet",
        batch_size=8_192,
        epochs=10,
        resolution=512,
        window=16,
        optimizer=Optimizer(lr=2e-5, warmup_steps=500),
        precision=Precision.FP16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=2,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    return _job(
        "imagenet-finetune",
        "imagenet",
        settings,
        model,
        Resources(workers=64, gpus_per_worker=8, cpu=96, memory="1000Gi"),
    )


def retrieval_finetune(
    data: str = "s3://coco/karpathy-train",
    validation: str = "s3://coco/karpathy-test",
    model: str = PRETRAINED,
) -> FlorenceJob:
    """Image-text retrieval on COCO or Flickr30k: 12 epochs of 3,072 pairs, peak 2e-5.

    200 steps of warm-up. 384 pixels and that all captions of an image are its positives are
    inferred; the paper does not say.

    Args:
        data: shards of images with ``captions``, as 'florencectl data import karpathy' writes.
        validation: those of the test split.
        model: what is fine-tuned.
    """
    settings = Finetune(
        mode=Mode.RETRIEVAL,
        data=data,
        validation=validation,
        batch_size=3_072,
        epochs=12,
        resolution=384,
        window=12,
        pairs=CaptionPairs(captions_per_image=5),
        optimizer=Optimizer(lr=2e-5, warmup_steps=200),
        precision=Precision.FP16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=2,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    return _job(
        "retrieval-finetune",
        "retrieval",
        settings,
        model,
        Resources(workers=16, gpus_per_worker=8, cpu=96, memory="1000Gi"),
    )


def _job(
    name: str, stage: str, settings: Finetune, model: str, resources: Resources
) -> FlorenceJob:
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
            stages=(
                Stage(name=stage, initial_model=model, resources=resources, finetune=settings),
            ),
            run_policy=RunPolicy(
                retries=Retries(infrastructure=20, application=2),
                deadline="7d",
                stall_timeout="10m",
            ),
        ),
    )
