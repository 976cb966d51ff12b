"""What a user sets about finding objects with a trained detector, and about measuring that."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import field_validator, model_validator

from florence.config.base import Holds, Settings, location, setting, settings_group
from florence.config.evaluations import PROMPT_SETS, EvaluationSettings


class BoxMetric(StrEnum):
    """By which protocol boxes are compared with the truth."""

    COCO = "coco"
    LVIS = "lvis"
    AP50 = "ap50"


class Inference(Settings):
    """How a detector's raw predictions become boxes. The defaults are the published protocol's."""

    score_threshold: float = setting(
        0.05, description="boxes are kept where a class is more probable than this", ge=0, lt=1
    )
    candidates: int = setting(
        1_000, description="boxes of each level that are looked at, the best ones", ge=1
    )
    nms_iou: float = setting(
        0.6,
        description="largest overlap (IoU) of two boxes of one class that are both kept",
        ge=0,
        le=1,
    )
    soft_nms_sigma: float | None = setting(
        None,
        description="instead of dropping boxes that overlap better ones multiply their scores by "
        "exp(-IoU² / sigma); 0.5 is usual. Default: drop them",
        gt=0,
    )
    voting_iou: float | None = setting(
        None,
        description="make each kept box the mean of all boxes of its class that overlap it by at "
        "least this IoU, weighted by their scores. Default: no voting",
        ge=0,
        le=1,
    )
    max_detections: int = setting(
        100, description="boxes of an image, the best ones; LVIS counts 300", ge=1
    )
    short_sides: tuple[int, ...] = setting(
        (),
        description="sizes at which every image is looked at, by its short side; the boxes of all "
        "are joined. Default: the stage's resolution alone",
    )
    long_side: int | None = setting(
        None,
        description="largest long side of an image, which wins over its short side. Default: that "
        "of the training",
        unit="pixels",
        ge=32,
    )
    flip: bool = setting(False, description="look at every image mirrored too")
    proposals: int = setting(
        300, description="zero-shot: boxes of an image that texts are compared with", ge=1
    )
    proposal_iou: float = setting(
        0.7, description="zero-shot: largest overlap (IoU) of two proposals", ge=0, le=1
    )
    crop_context: float = setting(
        1.0,
        description="zero-shot: side of what is cut out around a proposal over the proposal's own; "
        "1.5 shows its surroundings",
        ge=1,
    )
    crop_resolution: int | None = setting(
        None,
        description="zero-shot: side of the square that a crop becomes. Default: that of the "
        "images that the classifier was trained on",
        unit="pixels",
        ge=8,
    )

    @field_validator("short_sides")
    @classmethod
    def _sides_are_sizes(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 32 for side in sides) or len(set(sides)) < len(sides):
            raise ValueError("give different sizes of at least 32 pixels")
        return sides


class Detection(EvaluationSettings):
    """Boxes of a detector against those of people, with the metrics of a benchmark."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with boxes, as 'florencectl data import' writes them",
        min_length=1,
    )
    metric: BoxMetric = setting(
        BoxMetric.COCO,
        description="coco: mean AP over IoU 0.5 to 0.95, and AP by size; lvis: with federated "
        "negatives, and AP of rare, common and frequent classes; ap50: at IoU 0.5, as VOC and "
        "Visual Genome have it",
    )
    prompts: str | None = location(
        None,
        holds=Holds.PROMPTS,
        description="zero-shot: class names and templates, as for evaluate.zeroShot. Default: the "
        "data's names, in the templates of the classifier",
        names=PROMPT_SETS,
        min_length=1,
    )
    classifier: str | None = location(
        None,
        holds=Holds.MODEL,
        description="zero-shot: URI of a two-tower model that compares boxes with texts. Default: "
        "the towers that the detector has itself",
        min_length=1,
    )
    inference: Inference = settings_group(Inference, description="how predictions become boxes")

    @model_validator(mode="after")
    def _lvis_counts_more(self) -> Self:
        if self.metric is BoxMetric.LVIS and self.inference.max_detections < 300:
            given = self.inference.model_fields_set
            if "max_detections" not in given:
                object.__setattr__(
                    self,
                    "inference",
                    self.inference.model_copy(update={"max_detections": 300}),
                )
        return self
