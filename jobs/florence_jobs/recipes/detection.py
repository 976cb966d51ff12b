"""The paper's detectors as jobs (section 2.4 and 3.5).

What the paper says: FLOD-9M for 12 epochs at a batch of 128 on 128 A100 in 7 days; sides of at most
2,500 pixels and multi-scale testing for COCO, 1,333 for Objects365, 3,000 and 24 epochs with
attributes for Visual Genome. The optimiser is that of DyHead with Swin, whose recipe the paper
follows: AdamW at 1e-4, a tenth of it for the tower, which falls at 67 % and 89 %.
"""

from __future__ import annotations

from typing import Any

from florence.config import (
    ActivationCheckpointing,
    CheckpointPolicy,
    EngineKind,
    Optimizer,
    Precision,
    Schedule,
)
from florence.config.detection import BoxMetric, Inference
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.settings import Detection
from florence_jobs.recipes.finetuning import PRETRAINED
from florence_jobs.recipes.paper_cluster import on_paper_cluster
from florence_operator.api import FlorenceJob, Stage
from florence_operator.api.v1alpha1 import Resources

DETECTOR = "s3://florence/models/florence-h-flod"
FLOD_IMAGES, FLOD_BOXES, FLOD_CLASSES = 8_967_286, 33_408_237, 25_190
FLOD_EPOCHS, FLOD_BATCH = 12, 128


def flod_pretraining(data: str = "s3://flod/shards", model: str = PRETRAINED) -> FlorenceJob:
    """Pretraining on FLOD-9M: 840,683 steps of 128 images, one on each of 128 A100.

    Args:
        data: shards of COCO, LVIS, Objects365, OpenImages and pseudo boxes, as 'florencectl data
            import flod' merges them.
        model: whose tower is trained further.
    """
    settings = _detection(
        data,
        steps=FLOD_EPOCHS * FLOD_IMAGES // FLOD_BATCH,
        batch_size=FLOD_BATCH,
        classes=FLOD_CLASSES,
        max_side=1_333,
    )
    return _job("flod", settings, model, Resources(workers=16, gpus_per_worker=8))


def coco_detection(
    data: str = "s3://coco/train2017",
    validation: str = "s3://coco/val2017",
    model: str = DETECTOR,
) -> FlorenceJob:
    """COCO: 62.0 AP on minival with multi-scale testing in the paper.

    Args:
        data: shards of train2017, as 'florencectl data import coco' writes them.
        validation: those of val2017.
        model: the detector that was pretrained on FLOD-9M.
    """
    settings = _detection(
        data,
        epochs=12,
        batch_size=32,
        classes=80,
        max_side=2_500,
        validation=validation,
        inference=Inference(
            short_sides=(800, 960, 1_120, 1_280, 1_440, 1_600),
            flip=True,
            soft_nms_sigma=0.5,
            voting_iou=0.8,
        ),
    )
    return _job("coco", settings, model, Resources(workers=4, gpus_per_worker=8))


def objects365_detection(
    data: str = "s3://objects365/train",
    validation: str = "s3://objects365/val",
    model: str = DETECTOR,
) -> FlorenceJob:
    """Objects365: 39.3 AP in the paper.

    Args:
        data: shards of the training set.
        validation: those of the validation set.
        model: the detector that was pretrained on FLOD-9M.
    """
    settings = _detection(
        data, epochs=12, batch_size=64, classes=365, max_side=1_333, validation=validation
    )
    return _job("objects365", settings, model, Resources(workers=8, gpus_per_worker=8))


def visual_genome_detection(
    data: str = "s3://visual-genome/train",
    validation: str = "s3://visual-genome/test",
    attributes: str = "s3://visual-genome/attributes.txt",
    model: str = DETECTOR,
) -> FlorenceJob:
    """Visual Genome with attributes, as vision-language models need it: 16.2 AP50 in the paper.

    Args:
        data: shards of the training set, with the 1,594 names of VinVL.
        validation: those of the test set.
        attributes: a text file with the 524 attributes, one a line.
        model: the detector that was pretrained on FLOD-9M.
    """
    settings = _detection(
        data,
        epochs=24,
        batch_size=32,
        classes=1_594,
        max_side=3_000,
        attributes=attributes,
        validation=validation,
        metric=BoxMetric.AP50,
    )
    return _job("visual-genome", settings, model, Resources(workers=4, gpus_per_worker=8))


def zero_shot_detection(data: str = "s3://flod/shards", model: str = PRETRAINED) -> FlorenceJob:
    """A detector of anything on a frozen tower, whose boxes texts name (section 3.6).

    Args:
        data: shards of FLOD-9M.
        model: the two towers.
    """
    settings = _detection(
        data,
        steps=FLOD_EPOCHS * FLOD_IMAGES // FLOD_BATCH,
        batch_size=FLOD_BATCH,
        classes=FLOD_CLASSES,
        max_side=1_333,
        class_agnostic=True,
        frozen_tower=True,
    )
    return _job("zero-shot-boxes", settings, model, Resources(workers=16, gpus_per_worker=8))


def _detection(data: str, *, max_side: int, **fields: Any) -> Detection:
    return Detection(
        data=data,
        resolution=800,
        boxes=DetectionAugmentation(
            short_side_min=480, short_side_max=1_200, max_side=max_side, flip=0.5
        ),
        optimizer=Optimizer(
            lr=1e-4,
            weight_decay=0.05,
            schedule=Schedule.STEP,
            decay_at=(0.67, 0.89),
            warmup_steps=1_000,
            beta2=0.999,
            eps=1e-8,
            clip_norm=1.0,
        ),
        precision=Precision.BF16,
        engine=EngineKind.DEEPSPEED,
        zero_stage=1,
        activation_checkpointing=ActivationCheckpointing.FULL,
        checkpoints=CheckpointPolicy(every_steps=2_000),
        **fields,
    )


def _job(name: str, settings: Detection, model: str, resources: Resources) -> FlorenceJob:
    return on_paper_cluster(
        name,
        (
            Stage(
                name="boxes",
                initial_model=model,
                resources=resources.model_copy(update={"cpu": 96, "memory": "1000Gi"}),
                detection=settings,
            ),
        ),
        deadline="14d",
    )
