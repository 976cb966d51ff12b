"""The paper's fine-tunings of its pretrained model as jobs (section 3.2 and 3.4)."""

from __future__ import annotations

from florence.config import (
    ActivationCheckpointing,
    EngineKind,
    Optimizer,
    Precision,
)
from florence.tasks.finetune.settings import CaptionPairs, Finetune, Mode
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_operator.api import FlorenceJob, Stage
from florence_operator.api.v1alpha1 import Resources

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
    return on_paper_cluster(
        name,
        (Stage(name=stage, initial_model=model, resources=resources, finetune=settings),),
        deadline="7d",
    )
