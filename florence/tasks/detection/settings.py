"""The settings of a detection stage."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from florence.config import Augmentation, Evaluate, Settings, Training
from florence.config.base import Holds, location, setting, settings_group
from florence.config.detection import BoxMetric, Inference
from florence.config.detection import Detection as BoxEvaluation
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.shape import (
    DETECTION,
    ZERO_SHOT_DETECTION,
    DetectorShape,
    Normalisation,
)


class DetectionHead(Settings):
    """What stands behind the image tower: a feature pyramid and a dynamic head."""

    channels: int = setting(
        256, description="channels of every level of the pyramid", unit="channels", ge=8
    )
    blocks: int = setting(6, description="blocks of the dynamic head", ge=0)
    normalisation: Normalisation = setting(
        Normalisation.GROUP,
        description="after each deformable convolution: group, layer or none",
    )
    groups: int = setting(16, description="normalisation group: groups of channels", ge=1)
    finest_stride: int = setting(
        8,
        description="pixels between the cells of the finest level: 8, or 4 with the tower's first "
        "stage, for small objects",
        unit="pixels",
    )
    coarsest_stride: int = setting(
        128,
        description="pixels between the cells of the coarsest level: 32, 64 or 128",
        unit="pixels",
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.finest_stride not in (4, 8):
            raise ValueError("finestStride must be 4 or 8")
        if self.coarsest_stride not in (32, 64, 128):
            raise ValueError("coarsestStride must be 32, 64 or 128")
        if self.normalisation is Normalisation.GROUP and (
            self.channels % self.groups or self.channels == self.groups
        ):
            raise ValueError(
                f"groups={self.groups} does not divide channels={self.channels} into groups of "
                "several channels"
            )
        return self


class DetectionLoss(Settings):
    """What the parts of the loss are multiplied by."""

    box_weight: float = setting(2.0, description="of GIoU", ge=0)
    centerness_weight: float = setting(1.0, description="of centerness", ge=0)
    attribute_weight: float = setting(0.5, description="of attributes", ge=0)


class Detection(Training):
    """One stage that trains a detector."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of images with boxes: shards, or a file that 'florencectl data import' "
        "reads (COCO, LVIS, Objects365, OpenImages, Visual Genome, VOC, YOLO), builtin:digits/…",
        affects_result=False,  # the fingerprint of the samples stands for it
        min_length=1,
    )
    resolution: int = setting(
        800,
        description="short side of the images in evaluation; the planner counts with it",
        unit="pixels",
        ge=32,
    )
    classes: int | None = setting(
        None,
        description="how many classes the data must have; the planner counts with it, or with 80",
        unit="classes",
        ge=1,
    )
    attributes: str | None = location(
        None,
        description="path or URI of a text file with the attributes that are learnt beside the "
        "classes, one a line (Visual Genome: 524). Default: none",
        min_length=1,
    )
    class_agnostic: bool = setting(
        False,
        description="take all objects for one class: the detector finds anything, and texts say "
        "what it is (zero-shot detection)",
    )
    frozen_tower: bool = setting(
        False, description="train the head only; the image tower stays as it is"
    )
    frozen_stages: int = setting(
        0,
        description="first stages of the image tower that stay as they are; few-shot training "
        "freezes 2",
        ge=0,
        le=4,
    )
    tower_lr_scale: float = setting(
        0.1, description="what the image tower's learning rate is multiplied by", gt=0
    )
    head: DetectionHead = settings_group(
        DetectionHead, description="feature pyramid and dynamic head"
    )
    boxes: DetectionAugmentation = settings_group(
        DetectionAugmentation,
        description="sizes of images, and what is done to them with their boxes",
    )
    loss: DetectionLoss = settings_group(DetectionLoss, description="parts of the loss")
    shots: int | None = setting(
        None,
        description="few-shot: choose images until every class has at least this many boxes. "
        "Default: all images",
        unit="boxes",
        ge=1,
    )
    shots_seed: int = setting(
        3, description="few-shot: decides which images; benchmarks use 3, 30 and 300", ge=0
    )
    inference: Inference = settings_group(
        Inference,
        description="how predictions become boxes, in evaluation and for whoever uses the model",
        affects_result=False,
    )
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out images with boxes on which the detector is measured",
        affects_result=False,
        min_length=1,
    )
    metric: BoxMetric = setting(
        BoxMetric.COCO,
        description="by which protocol validation measures: coco, lvis or ap50",
        affects_result=False,
    )

    @model_validator(mode="after")
    def _fields_fit_each_other(self) -> Self:
        if self.validation is not None and self.evaluation is not None:
            raise ValueError("give validation or evaluation, not both")
        plain = Augmentation(mean=self.augmentation.mean, std=self.augmentation.std)
        if self.augmentation != plain:
            raise ValueError(
                "of augmentation only mean and std mean anything here: boxes says what is done to "
                "images with boxes"
            )
        if self.class_agnostic and self.attributes:
            raise ValueError("attributes mean nothing with classAgnostic: remove them")
        return self

    def shape(self, classes: int, attributes: tuple[str, ...] = ()) -> DetectorShape:
        """Of a head that tells this many classes apart, and these attributes."""
        return DetectorShape(
            classes=1 if self.class_agnostic else classes,
            attributes=attributes,
            channels=self.head.channels,
            blocks=self.head.blocks,
            normalisation=self.head.normalisation.value,
            groups=self.head.groups,
            finest=self.head.finest_stride,
            coarsest=self.head.coarsest_stride,
            long_side=self.boxes.max_side,
        )

    @property
    def leaves(self) -> str:
        """The task of the model that the stage leaves."""
        return ZERO_SHOT_DETECTION if self.class_agnostic else DETECTION

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The tasks of the models that the stage may start from: those with the parts it trains."""
        if self.class_agnostic:
            return ("contrastive", ZERO_SHOT_DETECTION)
        return ("contrastive", "classification", DETECTION, ZERO_SHOT_DETECTION)

    def evaluations(self, validation: str | None = None) -> Evaluate | None:
        """What is measured on held-out data.

        Args:
            validation: where that of the setting can be read; the setting itself by default.
        """
        data = validation or self.validation
        if data is None:
            return self.evaluation
        boxes = BoxEvaluation(name="boxes", data=data, metric=self.metric, inference=self.inference)
        return Evaluate(detection=(boxes,), precision=self.precision, workers=self.loader.workers)
